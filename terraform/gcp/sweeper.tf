# Ends machines whose paid time is over, though no server runs: providers/gce_sweeper.py, called each minute. Google ends them by itself
# (maxRunDuration); this ends those that it did not, by their label. sweeper.zip has that file and nothing else;
# `python -m scripts.pack_sweeper` makes it, and a test compares the two.

locals {
  sweep_look = ["compute.instances.list"]
  sweep_end  = ["compute.instances.delete"]
}

resource "google_service_account" "sweeper" {
  project      = var.project
  account_id   = "${var.farm}-sweeper"
  display_name = "Ends machines of the farm ${var.farm} past their deadline"
  depends_on   = [google_project_service.needed]
}

resource "google_project_iam_member" "sweep_look" {
  project = var.project
  role    = google_project_iam_custom_role.farm["sweep_look"].id
  member  = google_service_account.sweeper.member
}

resource "google_project_iam_member" "sweep_end" {
  project = var.project
  role    = google_project_iam_custom_role.farm["sweep_end"].id
  member  = google_service_account.sweeper.member

  condition {
    title       = local.ours.title
    description = local.ours.description
    expression  = local.ours.expression
  }
}

resource "google_storage_bucket_object" "sweeper" {
  bucket = google_storage_bucket.farm.name
  name   = "sweeper/${filemd5("${path.module}/sweeper.zip")}.zip"
  source = "${path.module}/sweeper.zip"
}

resource "google_cloudfunctions2_function" "sweeper" {
  project     = var.project
  location    = var.region
  name        = "${var.farm}-sweeper"
  description = "Ends machines of the farm ${var.farm} past their deadline"
  labels      = local.labels
  depends_on  = [google_project_service.needed]

  build_config {
    runtime     = "python312"
    entry_point = "handler"
    source {
      storage_source {
        bucket = google_storage_bucket.farm.name
        object = google_storage_bucket_object.sweeper.name
      }
    }
  }

  service_config {
    available_memory      = "256M"
    timeout_seconds       = 50
    max_instance_count    = 1
    ingress_settings      = "ALLOW_INTERNAL_ONLY" # Cloud Scheduler of the same project is internal
    service_account_email = google_service_account.sweeper.email
    environment_variables = { COALITION_FARM = var.farm, COALITION_PROJECT = var.project }
  }
}

# Who calls it: an account that may do nothing else.
resource "google_service_account" "clock" {
  project      = var.project
  account_id   = "${var.farm}-clock"
  display_name = "Calls the sweeper of the farm ${var.farm}"
  depends_on   = [google_project_service.needed]
}

resource "google_cloud_run_v2_service_iam_member" "clock" {
  project  = var.project
  location = var.region
  name     = google_cloudfunctions2_function.sweeper.name
  role     = "roles/run.invoker"
  member   = google_service_account.clock.member
}

resource "google_cloud_scheduler_job" "sweeper" {
  project          = var.project
  region           = var.region
  name             = "${var.farm}-sweeper"
  description      = "Looks each minute for machines whose paid time is over"
  schedule         = "* * * * *"
  attempt_deadline = "60s"

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.sweeper.service_config[0].uri
    oidc_token {
      service_account_email = google_service_account.clock.email
      audience              = google_cloudfunctions2_function.sweeper.service_config[0].uri
    }
  }
}
