# EC2 says two minutes ahead that it takes a spot machine: EventBridge puts that into a queue, which the server reads.

resource "aws_sqs_queue" "notices" {
  name                      = "${var.farm}-notices"
  message_retention_seconds = 600
  sqs_managed_sse_enabled   = true
  tags                      = local.tags
}

resource "aws_sqs_queue_policy" "notices" {
  queue_url = aws_sqs_queue.notices.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.notices.arn
      Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.notices.arn } }
    }]
  })
}

resource "aws_cloudwatch_event_rule" "notices" {
  name        = "${var.farm}-notices"
  description = "Spot machines that EC2 takes back"
  tags        = local.tags
  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Spot Instance Interruption Warning"]
  })
}

resource "aws_cloudwatch_event_target" "notices" {
  rule = aws_cloudwatch_event_rule.notices.name
  arn  = aws_sqs_queue.notices.arn
}
