# Everything here: the server with its backup, a NAT gateway, the studio's own buckets, AWS's warning at a month's budget.

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

variable "server_image" {
  type        = string
  description = "An image with Debian 12."
}

provider "aws" {
  region = var.region
}

module "farm" {
  source             = "../.."
  farm               = "studio"
  zones              = ["${var.region}a", "${var.region}b", "${var.region}c"]
  egress             = "nat"
  office_cidrs       = ["192.0.2.0/24"]
  asset_buckets      = ["studio-assets"]
  server             = { image = var.server_image, instance_type = "m6i.large", disk_gib = 200 }
  monthly_budget_usd = 2000
  budget_emails      = ["wrangler@example.com"]
  pool               = { types = ["c6i.8xlarge", "c5.9xlarge"], max = 40 }
}

output "cloud_ini" {
  value = module.farm.cloud_ini
}

output "server_address" {
  value = module.farm.server_address
}
