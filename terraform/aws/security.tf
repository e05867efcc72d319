# Who may reach whom. Nobody reaches a worker.

resource "aws_security_group" "worker" {
  #checkov:skip=CKV2_AWS_5:the machines that the server starts are in it, and are none of Terraform's
  name        = "${var.farm}-worker"
  description = "Workers: they call the server, and nobody calls them"
  vpc_id      = aws_vpc.farm.id
  tags        = merge(local.tags, { Name = "${var.farm}-worker" })
}

resource "aws_security_group" "server" {
  name        = "${var.farm}-server"
  description = "The server: workers and the office reach its port"
  vpc_id      = aws_vpc.farm.id
  tags        = merge(local.tags, { Name = "${var.farm}-server" })
}

resource "aws_security_group" "endpoint" {
  count       = var.egress == "endpoints" ? 1 : 0
  name        = "${var.farm}-endpoint"
  description = "Private endpoints of AWS's services"
  vpc_id      = aws_vpc.farm.id
  tags        = merge(local.tags, { Name = "${var.farm}-endpoint" })
}

resource "aws_vpc_security_group_egress_rule" "worker_to_server" {
  security_group_id            = aws_security_group.worker.id
  description                  = "The server's port"
  referenced_security_group_id = aws_security_group.server.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

resource "aws_vpc_security_group_egress_rule" "worker_to_server_outside" {
  for_each          = toset(var.server_cidrs)
  security_group_id = aws_security_group.worker.id
  description       = "The server's port, outside"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
}

resource "aws_vpc_security_group_egress_rule" "worker_to_s3" {
  security_group_id = aws_security_group.worker.id
  description       = "S3, by its endpoint"
  prefix_list_id    = aws_vpc_endpoint.s3.prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "worker_out" {
  count             = var.egress == "none" ? 0 : 1
  security_group_id = aws_security_group.worker.id
  description       = var.egress == "nat" ? "HTTPS anywhere" : "HTTPS to private endpoints"
  cidr_ipv4         = var.egress == "nat" ? "0.0.0.0/0" : var.cidr
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "server_from_worker" {
  security_group_id            = aws_security_group.server.id
  description                  = "Workers"
  referenced_security_group_id = aws_security_group.worker.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

resource "aws_vpc_security_group_ingress_rule" "server_from_office" {
  for_each          = toset(var.office_cidrs)
  security_group_id = aws_security_group.server.id
  description       = "People"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
}

resource "aws_vpc_security_group_ingress_rule" "server_ssh" {
  for_each          = toset(var.ssh_cidrs)
  security_group_id = aws_security_group.server.id
  description       = "SSH, as asked for"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "server_out" {
  security_group_id = aws_security_group.server.id
  description       = "AWS, mail, packages: the server calls out"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "endpoint_from_worker" {
  count                        = var.egress == "endpoints" ? 1 : 0
  security_group_id            = aws_security_group.endpoint[0].id
  description                  = "Workers"
  referenced_security_group_id = aws_security_group.worker.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}
