# The server, if it is to be here: its data on a disk of its own, of which a snapshot is kept for each of 7 days.

resource "google_compute_address" "server" {
  count        = var.server == null ? 0 : 1
  project      = var.project
  region       = var.region
  name         = "${var.farm}-server"
  address_type = "INTERNAL"
  subnetwork   = google_compute_subnetwork.server[0].id
}

resource "google_compute_address" "public" {
  count   = try(var.server.public_address, false) ? 1 : 0
  project = var.project
  region  = var.region
  name    = "${var.farm}-server-public"
}

resource "google_compute_disk" "server" {
  #checkov:skip=CKV_GCP_37:Google encrypts it; `kms_key` is for who must hold the key
  count   = var.server == null ? 0 : 1
  project = var.project
  zone    = var.zones[0]
  name    = "${var.farm}-data"
  type    = "pd-balanced"
  size    = var.server.disk_gb
  labels  = local.labels

  dynamic "disk_encryption_key" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      kms_key_self_link = disk_encryption_key.value
    }
  }
}

resource "google_compute_instance" "server" {
  #checkov:skip=CKV_GCP_38:Google encrypts it; `kms_key` is for who must hold the key
  #checkov:skip=CKV_GCP_40:a public address only where it is asked for
  count                     = var.server == null ? 0 : 1
  project                   = var.project
  zone                      = var.zones[0]
  name                      = "${var.farm}-server"
  description               = "The server of the farm ${var.farm}"
  machine_type              = var.server.machine_type
  allow_stopping_for_update = true
  deletion_protection       = false
  labels                    = local.labels
  depends_on                = [google_project_iam_member.look, google_project_iam_member.own]

  metadata = {
    block-project-ssh-keys = "true"
    serial-port-enable     = "false"
    startup-script = templatefile("${path.module}/server.sh", {
      source = var.wheel_url
      unit   = base64encode(file("${path.module}/../../deploy/coalition.service"))
    })
  }

  boot_disk {
    initialize_params {
      image = var.server.image
    }
  }

  attached_disk {
    source            = google_compute_disk.server[0].id
    device_name       = "coalition"
    kms_key_self_link = var.kms_key
  }

  network_interface {
    subnetwork = google_compute_subnetwork.server[0].id
    network_ip = google_compute_address.server[0].address

    dynamic "access_config" {
      for_each = google_compute_address.public
      content {
        nat_ip = access_config.value.address
      }
    }
  }

  service_account {
    email  = google_service_account.server.email
    scopes = ["https://www.googleapis.com/auth/cloud-platform"] # the roles say what it may do
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }
}

resource "google_compute_resource_policy" "backup" {
  count       = var.server == null ? 0 : 1
  project     = var.project
  region      = var.region
  name        = "${var.farm}-backup"
  description = "Snapshots of the disk of the farm ${var.farm}"

  snapshot_schedule_policy {
    schedule {
      daily_schedule {
        days_in_cycle = 1
        start_time    = "03:00"
      }
    }
    retention_policy {
      max_retention_days    = 7
      on_source_disk_delete = "KEEP_AUTO_SNAPSHOTS"
    }
    snapshot_properties {
      labels = local.labels
    }
  }
}

resource "google_compute_disk_resource_policy_attachment" "backup" {
  count   = var.server == null ? 0 : 1
  project = var.project
  zone    = var.zones[0]
  name    = google_compute_resource_policy.backup[0].name
  disk    = google_compute_disk.server[0].name
}
