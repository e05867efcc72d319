# Everything here: the server with its backup, Cloud NAT, the studio's own buckets, Google's warning at a month's budget.

terraform {
  required_providers {
    google = {
      source = "hashicorp/google"
    }
  }
}

variable "project" {
  type        = string
  description = "The project that the farm is in."
}

variable "billing_account" {
  type        = string
  description = "Who pays for it, such as 012345-6789AB-CDEF01."
}

variable "region" {
  type    = string
  default = "europe-west1"
}

provider "google" {
  project               = var.project
  region                = var.region
  billing_project       = var.project
  user_project_override = true
}

module "farm" {
  source          = "../.."
  project         = var.project
  region          = var.region
  farm            = "studio"
  zones           = ["${var.region}-b", "${var.region}-c", "${var.region}-d"]
  egress          = "nat"
  office_cidrs    = ["192.0.2.0/24"]
  asset_buckets   = ["studio-assets"]
  server          = { machine_type = "n2-standard-4", disk_gb = 200, public_address = true }
  billing_account = var.billing_account
  monthly_budget  = 2000
  budget_emails   = ["wrangler@example.com"]
  pool            = { types = ["n2-standard-32", "c2-standard-30"], max = 40 }
}

output "cloud_ini" {
  value = module.farm.cloud_ini
}

output "server_address" {
  value = module.farm.server_address
}
