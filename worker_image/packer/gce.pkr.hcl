# The worker's image for Google Compute Engine.
#
#   packer build -var project_id=studio-render -var wheel=dist/coalition-5.0.0-py3-none-any.whl -var version=5.0.0 worker_image/packer/gce.pkr.hcl

variable "wheel" {
  type        = string
  description = "The worker's wheel, a file."
}

variable "version" {
  type        = string
  description = "The worker's version; it is in the image's name and tags."
}

variable "project_id" {
  type        = string
  description = "The project that the image is for, and that it is built in."
}

variable "zone" {
  type    = string
  default = "europe-west1-b"
}

variable "source_image" {
  type        = string
  default     = ""
  description = "The studio's own base; empty: the newest of `source_image_family`."
}

variable "source_image_family" {
  type    = string
  default = "debian-12"
}

variable "source_image_project" {
  type    = string
  default = "debian-cloud"
}

variable "machine_type" {
  type    = string
  default = "n2-standard-2"
}

variable "preemptible" {
  type        = bool
  default     = true
  description = "Build it on a spot machine."
}

variable "subnetwork" {
  type        = string
  default     = ""
  description = "Where it is built; empty: the default network."
}

variable "ssh_username" {
  type    = string
  default = "packer"
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
  labels = {
    role    = "coalition-worker"
    version = replace(var.version, ".", "-")
    date    = local.date
  }
}

source "googlecompute" "worker" {
  project_id              = var.project_id
  zone                    = var.zone
  image_name              = "coalition-worker-${replace(var.version, ".", "-")}-${local.date}"
  image_family            = "coalition-worker"
  image_description       = "Coalition worker ${var.version}"
  image_labels            = local.labels
  labels                  = local.labels
  source_image            = var.source_image
  source_image_family     = var.source_image == "" ? var.source_image_family : ""
  source_image_project_id = [var.source_image_project]
  machine_type            = var.machine_type
  preemptible             = var.preemptible
  subnetwork              = var.subnetwork
  communicator            = var.communicator
  ssh_username            = var.ssh_username
}

build {
  sources = ["source.googlecompute.worker"]

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
      "sudo env WHEEL=/tmp/worker_image/${basename(var.wheel)} 'DATASOURCES=GCE, None' sh /tmp/worker_image/provision.sh",
      "sudo rm -rf /tmp/worker_image",
    ]
  }
}
