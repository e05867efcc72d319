# Ends machines whose paid time is over, though no server runs: providers/aws_sweeper.py, called each minute. sweeper.zip has that file
# and nothing else; `python -m scripts.pack_sweeper` makes it, and a test compares the two.

locals {
  sweep = [
    {
      Sid      = "Look"
      Effect   = "Allow"
      Action   = "ec2:DescribeInstances"
      Resource = "*"
    },
    {
      Sid       = "EndOurs"
      Effect    = "Allow"
      Action    = "ec2:TerminateInstances"
      Resource  = local.instances
      Condition = local.owned
    },
    {
      Sid      = "Say"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.sweeper.arn}:*"
    },
  ]
}

resource "aws_cloudwatch_log_group" "sweeper" {
  #checkov:skip=CKV_AWS_158:it names machines that were ended, and no secret
  #checkov:skip=CKV_AWS_338:a month is enough to see why a machine was ended
  name              = "/aws/lambda/${var.farm}-sweeper"
  retention_in_days = 30
  tags              = local.tags
}

resource "aws_iam_role" "sweeper" {
  name        = "${var.farm}-sweeper"
  description = "Ends machines of the farm ${var.farm} past their deadline"
  tags        = local.tags
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "sweeper" {
  name   = "sweep"
  role   = aws_iam_role.sweeper.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.sweep })
}

resource "aws_lambda_function" "sweeper" {
  #checkov:skip=CKV_AWS_116:the next call comes in a minute and looks at all machines again
  #checkov:skip=CKV_AWS_117:it calls EC2 and nothing in the network, where it would need an endpoint
  #checkov:skip=CKV_AWS_272:a test compares the archive with the source
  #checkov:skip=CKV_AWS_173:the only variable is the name of the farm
  #checkov:skip=CKV_AWS_50:one call to EC2 needs no tracing
  function_name                  = "${var.farm}-sweeper"
  description                    = "Ends machines of the farm ${var.farm} past their deadline"
  filename                       = "${path.module}/sweeper.zip"
  source_code_hash               = filebase64sha256("${path.module}/sweeper.zip")
  runtime                        = "python3.12"
  handler                        = "aws_sweeper.handler"
  role                           = aws_iam_role.sweeper.arn
  timeout                        = 50
  memory_size                    = 256
  reserved_concurrent_executions = 1
  tags                           = local.tags
  depends_on                     = [aws_iam_role_policy.sweeper, aws_cloudwatch_log_group.sweeper]

  environment {
    variables = { COALITION_FARM = var.farm }
  }
}

resource "aws_cloudwatch_event_rule" "sweeper" {
  name                = "${var.farm}-sweeper"
  description         = "Looks each minute for machines whose paid time is over"
  schedule_expression = "rate(1 minute)"
  tags                = local.tags
}

resource "aws_cloudwatch_event_target" "sweeper" {
  rule = aws_cloudwatch_event_rule.sweeper.name
  arn  = aws_lambda_function.sweeper.arn
}

resource "aws_lambda_permission" "sweeper" {
  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.sweeper.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.sweeper.arn
}
