# Roles with what is needed and no more. A test records the calls of providers/aws.py and compares them with `launch` below.

locals {
  instances = "${local.arn}:ec2:${local.region}:${local.account}:instance/*"
  owned     = { StringEquals = { "aws:ResourceTag/coalition:farm" = var.farm } }
  labelled  = { StringEquals = { "aws:RequestTag/coalition:farm" = var.farm } }
  bought    = ["instance", "volume", "spot-instances-request"]

  launch = [
    { # none of these can be limited to some resources
      Sid    = "Look"
      Effect = "Allow"
      Action = [
        "ec2:DescribeImages", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes", "ec2:DescribeInstances",
        "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets",
        "pricing:GetProducts", "servicequotas:GetServiceQuota",
      ]
      Resource = "*"
    },
    {
      Sid       = "LaunchWithOurTag"
      Effect    = "Allow"
      Action    = "ec2:RunInstances"
      Resource  = [for kind in local.bought : "${local.arn}:ec2:${local.region}:${local.account}:${kind}/*"]
      Condition = local.labelled
    },
    {
      Sid    = "LaunchFromOurParts"
      Effect = "Allow"
      Action = "ec2:RunInstances"
      Resource = concat(
        ["${local.arn}:ec2:${local.region}::image/*", "${local.arn}:ec2:${local.region}::snapshot/*"],
        ["${local.arn}:ec2:${local.region}:${local.account}:network-interface/*", aws_security_group.worker.arn],
        [for subnet in aws_subnet.worker : subnet.arn],
      )
    },
    {
      Sid       = "TagWhatIsLaunched"
      Effect    = "Allow"
      Action    = "ec2:CreateTags"
      Resource  = [for kind in local.bought : "${local.arn}:ec2:${local.region}:${local.account}:${kind}/*"]
      Condition = { StringEquals = { "ec2:CreateAction" = "RunInstances" } }
    },
    {
      Sid      = "MoveTheDeadline"
      Effect   = "Allow"
      Action   = "ec2:CreateTags"
      Resource = local.instances
      Condition = merge(local.owned, {
        "ForAllValues:StringEquals" = { "aws:TagKeys" = ["coalition:until"] }
      })
    },
    {
      Sid       = "EndAndRead"
      Effect    = "Allow"
      Action    = ["ec2:GetConsoleOutput", "ec2:TerminateInstances"]
      Resource  = local.instances
      Condition = local.owned
    },
    {
      Sid       = "GiveWorkersTheirRole"
      Effect    = "Allow"
      Action    = "iam:PassRole"
      Resource  = aws_iam_role.worker.arn
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    },
    {
      Sid      = "ReadNotices"
      Effect   = "Allow"
      Action   = ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      Resource = aws_sqs_queue.notices.arn
    },
    {
      Sid    = "FindTheImage"
      Effect = "Allow"
      Action = "ssm:GetParameter"
      Resource = [
        "${local.arn}:ssm:${local.region}:${local.account}:parameter/coalition/*",
        "${local.arn}:ssm:${local.region}::parameter/aws/service/*",
      ]
    },
  ]

  keep_logs = [
    {
      Sid      = "Logs"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = "${aws_s3_bucket.farm.arn}/logs/*"
    },
    {
      Sid      = "ListLogs"
      Effect   = "Allow"
      Action   = "s3:ListBucket"
      Resource = aws_s3_bucket.farm.arn
    },
  ]

  read_assets = [
    {
      Sid      = "ReadAssets"
      Effect   = "Allow"
      Action   = "s3:GetObject"
      Resource = concat(["${aws_s3_bucket.farm.arn}/assets/*"], [for name in var.asset_buckets : "${local.arn}:s3:::${name}/*"])
    },
    {
      Sid      = "ListAssets"
      Effect   = "Allow"
      Action   = "s3:ListBucket"
      Resource = concat([aws_s3_bucket.farm.arn], [for name in var.asset_buckets : "${local.arn}:s3:::${name}"])
    },
    {
      Sid      = "WriteResults"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "${aws_s3_bucket.farm.arn}/results/*"
    },
  ]

  trust_ec2 = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role" "server" {
  name               = "${var.farm}-server"
  description        = "The server of the farm ${var.farm}"
  assume_role_policy = local.trust_ec2
  tags               = local.tags
}

resource "aws_iam_role_policy" "launch" {
  name   = "launch"
  role   = aws_iam_role.server.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.launch })
}

resource "aws_iam_role_policy" "keep_logs" {
  name   = "keep-logs"
  role   = aws_iam_role.server.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.keep_logs })
}

resource "aws_iam_instance_profile" "server" {
  name = "${var.farm}-server"
  role = aws_iam_role.server.name
  tags = local.tags
}

resource "aws_iam_role" "worker" {
  name               = "${var.farm}-worker"
  description        = "Workers of the farm ${var.farm}: their buckets, nothing else"
  assume_role_policy = local.trust_ec2
  tags               = local.tags
}

resource "aws_iam_role_policy" "worker" {
  name   = "buckets"
  role   = aws_iam_role.worker.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.read_assets })
}

resource "aws_iam_instance_profile" "worker" {
  name = "${var.farm}-worker"
  role = aws_iam_role.worker.name
  tags = local.tags
}

resource "aws_iam_service_linked_role" "spot" {
  count            = var.spot_service_role ? 1 : 0
  aws_service_name = "spot.amazonaws.com"
}
