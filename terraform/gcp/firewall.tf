# Who may reach whom, by who the machines are to Google: a rule by tags could be had by whoever sets tags. Nobody reaches a worker, as
# Google lets nothing in that no rule names. The server calls out, the office's networks included, as Google lets everything out
# that no rule forbids. Google's own names, time and metadata need no rule.

locals {
  servers = concat(var.server_cidrs, var.server == null ? [] : [for one in google_compute_address.server : "${one.address}/32"])
  ways    = { none = [], google = [local.google_vip], nat = ["0.0.0.0/0"] }
}

resource "google_compute_firewall" "worker_to_server" {
  count                   = length(local.servers) > 0 ? 1 : 0
  project                 = var.project
  name                    = "${var.farm}-worker-to-server"
  description             = "Workers call the server's port"
  network                 = google_compute_network.farm.id
  direction               = "EGRESS"
  priority                = 900
  target_service_accounts = [google_service_account.worker.email]
  destination_ranges      = local.servers

  allow {
    protocol = "tcp"
    ports    = [var.port]
  }
}

resource "google_compute_firewall" "worker_out" {
  count                   = var.egress == "none" ? 0 : 1
  project                 = var.project
  name                    = "${var.farm}-worker-out"
  description             = var.egress == "nat" ? "HTTPS anywhere" : "HTTPS to Google's services"
  network                 = google_compute_network.farm.id
  direction               = "EGRESS"
  priority                = 900
  target_service_accounts = [google_service_account.worker.email]
  destination_ranges      = local.ways[var.egress]

  allow {
    protocol = "tcp"
    ports    = ["443"]
  }
}

resource "google_compute_firewall" "worker_nowhere_else" {
  project                 = var.project
  name                    = "${var.farm}-worker-nowhere-else"
  description             = "Workers reach nothing that no other rule names"
  network                 = google_compute_network.farm.id
  direction               = "EGRESS"
  priority                = 1000
  target_service_accounts = [google_service_account.worker.email]
  destination_ranges      = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "server_from_worker" {
  project                 = var.project
  name                    = "${var.farm}-server-from-worker"
  description             = "Workers"
  network                 = google_compute_network.farm.id
  direction               = "INGRESS"
  source_service_accounts = [google_service_account.worker.email]
  target_service_accounts = [google_service_account.server.email]

  allow {
    protocol = "tcp"
    ports    = [var.port]
  }
}

resource "google_compute_firewall" "server_from_office" {
  count                   = length(var.office_cidrs) > 0 ? 1 : 0
  project                 = var.project
  name                    = "${var.farm}-server-from-office"
  description             = "People"
  network                 = google_compute_network.farm.id
  direction               = "INGRESS"
  source_ranges           = var.office_cidrs
  target_service_accounts = [google_service_account.server.email]

  allow {
    protocol = "tcp"
    ports    = [var.port]
  }
}

resource "google_compute_firewall" "server_ssh" {
  count                   = length(var.ssh_cidrs) > 0 ? 1 : 0
  project                 = var.project
  name                    = "${var.farm}-server-ssh"
  description             = "SSH, as asked for"
  network                 = google_compute_network.farm.id
  direction               = "INGRESS"
  source_ranges           = var.ssh_cidrs
  target_service_accounts = [google_service_account.server.email]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}
