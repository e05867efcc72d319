# The server, if it is to be here: its data on a disk of its own, of which a snapshot is kept for each of 7 days.

locals {
  source = var.wheel_url == "" ? "coalition" : "/root/coalition.whl"
  fetch  = var.wheel_url == "" ? [] : [["aws", "s3", "cp", var.wheel_url, "/root/coalition.whl"]]
}

resource "aws_instance" "server" {
  count                  = var.server == null ? 0 : 1
  ami                    = var.server.image
  instance_type          = var.server.instance_type
  subnet_id              = aws_subnet.public[0].id
  vpc_security_group_ids = [aws_security_group.server.id]
  iam_instance_profile   = aws_iam_instance_profile.server.name
  ebs_optimized          = true
  monitoring             = true
  tags                   = merge(local.tags, { Name = "${var.farm}-server" })
  user_data = join("\n", ["#cloud-config", jsonencode({
    packages = ["python3-venv", "awscli"]
    fs_setup = [{ device = "/dev/nvme1n1", filesystem = "ext4", label = "coalition", overwrite = false }]
    mounts   = [["LABEL=coalition", "/var/lib/coalition", "ext4", "defaults,nofail"]]
    write_files = [
      { path = "/etc/systemd/system/coalition.service", content = file("${path.module}/../../deploy/coalition.service") },
    ]
    runcmd = concat(local.fetch, [
      ["useradd", "--system", "--home-dir", "/var/lib/coalition", "--shell", "/usr/sbin/nologin", "coalition"],
      ["chown", "coalition:", "/var/lib/coalition"],
      ["python3", "-m", "venv", "/opt/coalition"],
      ["/opt/coalition/bin/pip", "install", "${local.source}[server,aws]"],
      ["systemctl", "daemon-reload"],
    ])
  })])

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted   = true
    volume_type = "gp3"
  }

  lifecycle {
    ignore_changes = [user_data] # a server is upgraded, not replaced
  }
}

resource "aws_ebs_volume" "server" {
  #checkov:skip=CKV_AWS_189:it is encrypted with the account's own key, which costs nothing
  count             = var.server == null ? 0 : 1
  availability_zone = var.zones[0]
  size              = var.server.disk_gib
  type              = "gp3"
  encrypted         = true
  tags              = merge(local.tags, { Name = "${var.farm}-server", "coalition:backup" = var.farm })
}

resource "aws_volume_attachment" "server" {
  count       = var.server == null ? 0 : 1
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.server[0].id
  instance_id = aws_instance.server[0].id
}

resource "aws_eip" "server" {
  count    = var.server == null ? 0 : 1
  domain   = "vpc"
  instance = aws_instance.server[0].id
  tags     = merge(local.tags, { Name = "${var.farm}-server" })
}

resource "aws_iam_role" "backup" {
  count = var.server == null ? 0 : 1
  name  = "${var.farm}-backup"
  tags  = local.tags
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "dlm.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "backup" {
  count      = var.server == null ? 0 : 1
  role       = aws_iam_role.backup[0].name
  policy_arn = "${local.arn}:iam::aws:policy/service-role/AWSDataLifecycleManagerServiceRole"
}

resource "aws_dlm_lifecycle_policy" "backup" {
  count              = var.server == null ? 0 : 1
  description        = "Snapshots of the disk of the farm ${var.farm}"
  execution_role_arn = aws_iam_role.backup[0].arn
  state              = "ENABLED"
  tags               = local.tags

  policy_details {
    resource_types = ["VOLUME"]
    target_tags    = { "coalition:backup" = var.farm }
    schedule {
      name      = "daily"
      copy_tags = true
      create_rule {
        interval      = 24
        interval_unit = "HOURS"
        times         = ["03:00"]
      }
      retain_rule {
        count = 7
      }
    }
  }
}
