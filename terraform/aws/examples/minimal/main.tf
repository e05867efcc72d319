# A network for workers; the server is in the office, behind a VPN. What stands still costs nothing but the bucket.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-west-1"
}

variable "pool" {
  type    = any
  default = {}
}

provider "aws" {
  region = var.region
}

module "farm" {
  source         = "../.."
  zones          = ["${var.region}a", "${var.region}b"]
  egress         = "none"
  server_cidrs   = ["10.1.2.3/32"]
  server_address = "10.1.2.3"
  pool           = var.pool
}

output "cloud_ini" {
  value = module.farm.cloud_ini
}
