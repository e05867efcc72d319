# A network of its own: private subnets for workers, one for each zone, without public addresses.

data "aws_region" "here" {}
data "aws_caller_identity" "me" {}
data "aws_partition" "here" {}

locals {
  tags    = { "coalition:module" = var.farm }
  public  = var.egress == "nat" || var.server != null
  region  = data.aws_region.here.name
  account = data.aws_caller_identity.me.account_id
  arn     = "arn:${data.aws_partition.here.partition}"
  # What the worker's image and the SDK on it ask for. S3's endpoint is of the kind that costs nothing.
  services = var.egress == "endpoints" ? ["ssm", "ssmmessages", "ec2messages", "sts", "logs"] : []
}

resource "aws_vpc" "farm" {
  #checkov:skip=CKV2_AWS_11:flow logs are paid by volume, and renders move much; switch them on where they are wanted
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.farm })
}

resource "aws_default_security_group" "nobody" {
  vpc_id = aws_vpc.farm.id
  tags   = merge(local.tags, { Name = "${var.farm}-nobody" })
}

resource "aws_subnet" "worker" {
  for_each                = { for number, zone in var.zones : zone => number }
  vpc_id                  = aws_vpc.farm.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.cidr, 4, each.value)
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.farm}-worker-${each.key}" })
}

resource "aws_route_table" "worker" {
  vpc_id = aws_vpc.farm.id
  tags   = merge(local.tags, { Name = "${var.farm}-worker" })
}

resource "aws_route_table_association" "worker" {
  for_each       = aws_subnet.worker
  subnet_id      = each.value.id
  route_table_id = aws_route_table.worker.id
}

# ---------------------------------------------------------------- ways out

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.farm.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.worker.id]
  tags              = merge(local.tags, { Name = "${var.farm}-s3" })
}

resource "aws_vpc_endpoint" "service" {
  for_each            = toset(local.services)
  vpc_id              = aws_vpc.farm.id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for subnet in aws_subnet.worker : subnet.id]
  security_group_ids  = [aws_security_group.endpoint[0].id]
  tags                = merge(local.tags, { Name = "${var.farm}-${each.key}" })
}

resource "aws_subnet" "public" {
  count                   = local.public ? 1 : 0
  vpc_id                  = aws_vpc.farm.id
  availability_zone       = var.zones[0]
  cidr_block              = cidrsubnet(var.cidr, 8, 255)
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.farm}-public" })
}

resource "aws_internet_gateway" "out" {
  count  = local.public ? 1 : 0
  vpc_id = aws_vpc.farm.id
  tags   = merge(local.tags, { Name = var.farm })
}

resource "aws_route_table" "public" {
  count  = local.public ? 1 : 0
  vpc_id = aws_vpc.farm.id
  tags   = merge(local.tags, { Name = "${var.farm}-public" })
}

resource "aws_route" "public" {
  count                  = local.public ? 1 : 0
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.out[0].id
}

resource "aws_route_table_association" "public" {
  count          = local.public ? 1 : 0
  subnet_id      = aws_subnet.public[0].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  count  = var.egress == "nat" ? 1 : 0
  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.farm}-nat" })
}

resource "aws_nat_gateway" "out" {
  count         = var.egress == "nat" ? 1 : 0
  allocation_id = aws_eip.nat[0].id
  subnet_id     = aws_subnet.public[0].id
  tags          = merge(local.tags, { Name = var.farm })
  depends_on    = [aws_route.public]
}

resource "aws_route" "nat" {
  count                  = var.egress == "nat" ? 1 : 0
  route_table_id         = aws_route_table.worker.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.out[0].id
}

# ---------------------------------------------------------------- names

resource "aws_route53_zone" "farm" {
  name          = var.domain
  comment       = "Names of the farm ${var.farm}"
  force_destroy = true
  tags          = local.tags

  vpc {
    vpc_id = aws_vpc.farm.id
  }
}

locals {
  named = var.server_address != "" ? [var.server_address] : [for one in aws_instance.server : one.private_ip]
}

resource "aws_route53_record" "server" {
  count   = var.server_address != "" || var.server != null ? 1 : 0
  zone_id = aws_route53_zone.farm.zone_id
  name    = "coalition.${var.domain}"
  type    = "A"
  ttl     = 60
  records = local.named
}

resource "aws_vpc_dhcp_options" "farm" {
  domain_name         = var.domain
  domain_name_servers = ["AmazonProvidedDNS"]
  tags                = merge(local.tags, { Name = var.farm })
}

resource "aws_vpc_dhcp_options_association" "farm" {
  vpc_id          = aws_vpc.farm.id
  dhcp_options_id = aws_vpc_dhcp_options.farm.id
}
