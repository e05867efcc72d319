# The worker's image for Amazon EC2.
#
#   packer build -var wheel=dist/coalition-5.0.0-py3-none-any.whl -var version=5.0.0 worker_image/packer/aws.pkr.hcl

variable "wheel" {
  type        = string
  description = "The worker's wheel, a file."
}

variable "version" {
  type        = string
  description = "The worker's version; it is in the image's name and tags."
}

variable "region" {
  type    = string
  default = "eu-west-1"
}

variable "source_ami" {
  type        = string
  default     = ""
  description = "The studio's own base; empty: the newest Debian 12."
}

variable "ssh_username" {
  type    = string
  default = "admin"
}

variable "spot_types" {
  type        = list(string)
  default     = ["c6i.large", "c5.large", "m5.large"]
  description = "What the image may be built on: the cheapest spot machine of these. Empty: on-demand, `instance_type`."
}

variable "instance_type" {
  type    = string
  default = "c6i.large"
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Where it is built; empty: the default network."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "Encrypts the image; empty: the account's own key for disks."
}

variable "endpoint" {
  type        = string
  default     = ""
  description = "Another service that speaks as EC2 does."
}

variable "hooks" {
  type        = string
  default     = ""
  description = "A folder with the studio's own steps, for /etc/coalition/image.d; empty: none."
}

variable "communicator" {
  type    = string
  default = "ssh"
}

locals {
  date = formatdate("YYYYMMDD-hhmm", timestamp())
  here = "${path.root}/.."
  tags = {
    Name    = "coalition-worker-${var.version}"
    role    = "coalition-worker"
    version = var.version
    date    = local.date
  }
}

source "amazon-ebs" "worker" {
  region              = var.region
  ami_name            = "coalition-worker-${var.version}-${local.date}"
  ami_description     = "Coalition worker ${var.version}"
  source_ami          = var.source_ami
  custom_endpoint_ec2 = var.endpoint
  communicator        = var.communicator
  ssh_username        = var.ssh_username
  subnet_id           = var.subnet_id
  instance_type       = length(var.spot_types) == 0 ? var.instance_type : null
  spot_instance_types = length(var.spot_types) == 0 ? null : var.spot_types
  spot_price          = length(var.spot_types) == 0 ? null : "auto"
  encrypt_boot        = true
  kms_key_id          = var.kms_key_id
  tags                = local.tags
  snapshot_tags       = local.tags
  run_tags            = local.tags

  dynamic "source_ami_filter" {
    for_each = var.source_ami == "" ? ["debian"] : []
    content {
      owners      = ["136693071363"]
      most_recent = true
      filters = {
        name                = "debian-12-amd64-*"
        virtualization-type = "hvm"
        root-device-type    = "ebs"
      }
    }
  }
}

build {
  sources = ["source.amazon-ebs.worker"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/worker_image/image.d"]
  }
  provisioner "file" {
    source      = "${local.here}/provision.sh"
    destination = "/tmp/worker_image/provision.sh"
  }
  provisioner "file" {
    source      = "${local.here}/files"
    destination = "/tmp/worker_image"
  }
  provisioner "file" {
    source      = var.wheel
    destination = "/tmp/worker_image/${basename(var.wheel)}"
  }
  provisioner "file" {
    source      = var.hooks == "" ? "${local.here}/image.d/" : "${var.hooks}/"
    destination = "/tmp/worker_image/image.d"
  }
  provisioner "shell" {
    inline = [
      "sudo install -d /etc/coalition/image.d && sudo touch /etc/coalition/cloud",
      "sudo cp -r /tmp/worker_image/image.d/. /etc/coalition/image.d/",
      "sudo env WHEEL=/tmp/worker_image/${basename(var.wheel)} 'DATASOURCES=Ec2, None' sh /tmp/worker_image/provision.sh",
      "sudo rm -rf /tmp/worker_image",
    ]
  }
}
