mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-west-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-west-1:123456789012:function:sweeper" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-west-1:123456789012:mock" }
  }
  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-west-1:123456789012:rule/mock" }
  }
}

variables {
  zones = ["eu-west-1a", "eu-west-1b"]
}

run "workers_have_no_public_address" {
  command = plan
  assert {
    condition     = alltrue([for subnet in aws_subnet.worker : !subnet.map_public_ip_on_launch]) && length(aws_subnet.worker) == 2
    error_message = "a private subnet for each zone"
  }
  assert {
    condition     = length(aws_nat_gateway.out) == 0 && length(aws_internet_gateway.out) == 0 && length(aws_instance.server) == 0
    error_message = "nothing that costs while it stands still, unless asked for"
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.server_ssh) == 0
    error_message = "no SSH unless asked for"
  }
}

run "nat_is_a_choice" {
  command = plan
  variables {
    egress = "nat"
  }
  assert {
    condition     = length(aws_nat_gateway.out) == 1 && length(aws_vpc_endpoint.service) == 0
    error_message = "one gateway instead of endpoints"
  }
}

run "a_server_brings_its_disk_and_its_backup" {
  command = apply
  variables {
    server = { image = "ami-0123456789abcdef0" }
  }
  assert {
    condition     = aws_ebs_volume.server[0].encrypted && aws_dlm_lifecycle_policy.backup[0].state == "ENABLED"
    error_message = "an encrypted disk with snapshots"
  }
  assert {
    condition     = length(aws_route53_record.server) == 1
    error_message = "the server has the name coalition"
  }
}

run "a_wrong_choice_is_refused" {
  command = plan
  variables {
    egress = "vpn"
  }
  expect_failures = [var.egress]
}
