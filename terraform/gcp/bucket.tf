# One bucket: logs/ of jobs, assets/ that workers read, results/ that they write. Google encrypts it; with `kms_key`, by that key.

resource "google_storage_bucket" "farm" {
  #checkov:skip=CKV_GCP_62:who reads it is in the project's audit log, which needs no second bucket
  #checkov:skip=CKV_GCP_78:frames are made again rather than kept in each version, which would be paid for
  project                     = var.project
  name                        = "${var.project}-${var.farm}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false
  labels                      = local.labels
  depends_on                  = [google_project_service.needed]

  lifecycle_rule {
    condition {
      age            = var.log_days
      matches_prefix = ["logs/"]
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age = 2
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }
}
