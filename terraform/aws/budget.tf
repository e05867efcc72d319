# AWS's own warning, hours late and without a hand on any switch: a second net.

resource "aws_budgets_budget" "farm" {
  count        = var.monthly_budget_usd > 0 ? 1 : 0
  name         = var.farm
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "notification" {
    for_each = length(var.budget_emails) > 0 ? [80, 100] : []
    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.value == 80 ? "ACTUAL" : "FORECASTED"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.budget_emails
    }
  }
}
