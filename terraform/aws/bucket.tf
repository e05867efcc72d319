# One bucket: logs/ of jobs, assets/ that workers read, results/ that they write.

resource "aws_s3_bucket" "farm" {
  #checkov:skip=CKV2_AWS_62:nothing waits for what is written
  #checkov:skip=CKV_AWS_18:CloudTrail tells who reads it, and needs no second bucket
  #checkov:skip=CKV_AWS_144:what is lost with a region is rendered again
  #checkov:skip=CKV_AWS_145:it is encrypted with S3's own key, which costs nothing for each call
  #checkov:skip=CKV_AWS_21:frames are made again rather than kept in each version, which would be paid for
  bucket_prefix = "${var.farm}-"
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "farm" {
  bucket                  = aws_s3_bucket.farm.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "farm" {
  bucket = aws_s3_bucket.farm.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "farm" {
  bucket = aws_s3_bucket.farm.id

  rule {
    id     = "logs"
    status = "Enabled"
    filter {
      prefix = "logs/"
    }
    expiration {
      days = var.log_days
    }
  }

  rule {
    id     = "unfinished"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

resource "aws_s3_bucket_policy" "farm" {
  bucket = aws_s3_bucket.farm.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyEncryptedCalls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.farm.arn, "${aws_s3_bucket.farm.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
  depends_on = [aws_s3_bucket_public_access_block.farm]
}
