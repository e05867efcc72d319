# Google's own warning, hours late and without a hand on any switch: a second net.

locals {
  warned = var.monthly_budget > 0 ? toset(var.budget_emails) : toset([])
}

data "google_project" "farm" {
  project_id = var.project
}

resource "google_monitoring_notification_channel" "budget" {
  for_each     = local.warned
  project      = var.project
  display_name = "Budget of the farm ${var.farm}"
  type         = "email"
  labels       = { email_address = each.key }
}

resource "google_billing_budget" "farm" {
  count           = var.monthly_budget > 0 ? 1 : 0
  billing_account = var.billing_account
  display_name    = var.farm

  budget_filter {
    projects        = ["projects/${data.google_project.farm.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      units = tostring(var.monthly_budget)
    }
  }

  threshold_rules {
    threshold_percent = 0.8
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [for one in google_monitoring_notification_channel.budget : one.id]
    disable_default_iam_recipients   = false
  }

  lifecycle {
    precondition {
      condition     = var.billing_account != ""
      error_message = "monthly_budget needs billing_account."
    }
  }
}
