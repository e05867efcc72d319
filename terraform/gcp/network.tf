# A network of its own: private subnets for workers, one for each zone, without public addresses.

locals {
  labels = { coalition-module = var.farm }
  # Google's services at addresses of their own, so that workers may be let to these and to no others.
  google_vip = "199.36.153.8/30"
  services = [
    "billingbudgets", "cloudbilling", "cloudbuild", "cloudfunctions", "cloudscheduler", "compute", "dns", "iam", "run", "storage",
  ]
}

resource "google_project_service" "needed" {
  for_each           = toset(local.services)
  project            = var.project
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

resource "google_compute_network" "farm" {
  project                         = var.project
  name                            = var.farm
  description                     = "The farm ${var.farm}"
  auto_create_subnetworks         = false
  delete_default_routes_on_create = false
  routing_mode                    = "REGIONAL"
  depends_on                      = [google_project_service.needed]
}

resource "google_compute_subnetwork" "worker" {
  #checkov:skip=CKV_GCP_26:flow logs are paid by volume, and renders move much; switch them on where they are wanted
  #checkov:skip=CKV_GCP_76:the network has no IPv6
  for_each                 = { for number, zone in var.zones : zone => number }
  project                  = var.project
  region                   = var.region
  name                     = "${var.farm}-worker-${each.key}"
  description              = "Workers in ${each.key}"
  network                  = google_compute_network.farm.id
  ip_cidr_range            = cidrsubnet(var.cidr, 4, each.value)
  private_ip_google_access = var.egress != "none"
}

resource "google_compute_subnetwork" "server" {
  #checkov:skip=CKV_GCP_26:one machine, whose own log tells who called
  #checkov:skip=CKV_GCP_76:the network has no IPv6
  count                    = var.server == null ? 0 : 1
  project                  = var.project
  region                   = var.region
  name                     = "${var.farm}-server"
  description              = "The server"
  network                  = google_compute_network.farm.id
  ip_cidr_range            = cidrsubnet(var.cidr, 8, 255)
  private_ip_google_access = true
}

# ---------------------------------------------------------------- ways out

resource "google_compute_router" "out" {
  count   = var.egress == "nat" ? 1 : 0
  project = var.project
  region  = var.region
  name    = var.farm
  network = google_compute_network.farm.id
}

resource "google_compute_router_nat" "out" {
  count                              = var.egress == "nat" ? 1 : 0
  project                            = var.project
  region                             = var.region
  name                               = var.farm
  router                             = google_compute_router.out[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# ---------------------------------------------------------------- names

resource "google_dns_managed_zone" "farm" {
  project       = var.project
  name          = var.farm
  dns_name      = "${var.domain}."
  description   = "Names of the farm ${var.farm}"
  visibility    = "private"
  force_destroy = true
  labels        = local.labels
  depends_on    = [google_project_service.needed]

  private_visibility_config {
    networks {
      network_url = google_compute_network.farm.id
    }
  }
}

locals {
  has_server = var.server_address != "" || var.server != null
  named      = var.server_address != "" ? [var.server_address] : [for one in google_compute_address.server : one.address]
}

resource "google_dns_record_set" "server" {
  count        = local.has_server ? 1 : 0
  project      = var.project
  managed_zone = google_dns_managed_zone.farm.name
  name         = "coalition.${var.domain}."
  type         = "A"
  ttl          = 60
  rrdatas      = local.named
}

# Google's machines look for names in zones of Google's only: so the address is an attribute of the project, too.
resource "google_compute_project_metadata_item" "server" {
  count   = local.has_server && var.announce ? 1 : 0
  project = var.project
  key     = "coalition-server"
  value   = "http://${local.named[0]}:${var.port}"
}

resource "google_dns_managed_zone" "google" {
  count         = var.egress == "google" ? 1 : 0
  project       = var.project
  name          = "${var.farm}-google"
  dns_name      = "googleapis.com."
  description   = "Google's services at the addresses that Private Google Access serves"
  visibility    = "private"
  force_destroy = true
  labels        = local.labels
  depends_on    = [google_project_service.needed]

  private_visibility_config {
    networks {
      network_url = google_compute_network.farm.id
    }
  }
}

resource "google_dns_record_set" "google" {
  count        = var.egress == "google" ? 1 : 0
  project      = var.project
  managed_zone = google_dns_managed_zone.google[0].name
  name         = "private.googleapis.com."
  type         = "A"
  ttl          = 300
  rrdatas      = [for number in range(4) : cidrhost(local.google_vip, number)]
}

resource "google_dns_record_set" "google_all" {
  count        = var.egress == "google" ? 1 : 0
  project      = var.project
  managed_zone = google_dns_managed_zone.google[0].name
  name         = "*.googleapis.com."
  type         = "CNAME"
  ttl          = 300
  rrdatas      = ["private.googleapis.com."]
}
