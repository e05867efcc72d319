# A network for workers; the server is in the office, behind a VPN. What stands still costs nothing but the bucket.

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

variable "region" {
  type    = string
  default = "europe-west1"
}

provider "google" {
  project = var.project
  region  = var.region
}

module "farm" {
  source         = "../.."
  project        = var.project
  region         = var.region
  zones          = ["${var.region}-b", "${var.region}-c"]
  server_cidrs   = ["10.1.2.3/32"]
  server_address = "10.1.2.3"
}

output "cloud_ini" {
  value = module.farm.cloud_ini
}
