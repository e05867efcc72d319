# Roles with what is needed and no more. A test compares the calls of providers/gce.py with `look`, `own`, `join` and `give`.

locals {
  prefix = "coalition-${substr(sha256(var.farm), 0, 6)}-" # of the names of this farm's machines: providers/names.py
  ours = {
    title       = "machines-of-${var.farm}"
    description = "Of machines only those with this farm's names"
    expression  = "resource.type != \"compute.googleapis.com/Instance\" || resource.name.extract(\"/instances/{name}\").startsWith(\"${local.prefix}\")"
  }

  look = [ # none of these is of one machine
    "compute.disks.create",
    "compute.globalOperations.list",
    "compute.images.get",
    "compute.images.getFromFamily",
    "compute.images.useReadOnly",
    "compute.instances.list",
    "compute.machineTypes.list",
    "compute.regions.get",
    "compute.zoneOperations.get",
  ]
  own = [
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.getSerialPortOutput",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.instances.setTags",
  ]
  join = ["compute.subnetworks.use"]   # on workers' subnets only
  give = ["iam.serviceAccounts.actAs"] # on the workers' account only

  roles   = { look = local.look, own = local.own, join = local.join, give = local.give, sweep_look = local.sweep_look, sweep_end = local.sweep_end }
  role_id = replace(var.farm, "-", "_") # roles' names take no hyphens

  objects = "projects/_/buckets/${google_storage_bucket.farm.name}/objects"
}

resource "google_service_account" "server" {
  project      = var.project
  account_id   = "${var.farm}-server"
  display_name = "The server of the farm ${var.farm}"
  depends_on   = [google_project_service.needed]
}

resource "google_service_account" "worker" {
  project      = var.project
  account_id   = "${var.farm}-worker"
  display_name = "Workers of the farm ${var.farm}: their buckets, nothing else"
  depends_on   = [google_project_service.needed]
}

resource "google_project_iam_custom_role" "farm" {
  for_each    = local.roles
  project     = var.project
  role_id     = "${local.role_id}_${each.key}"
  title       = "Coalition ${var.farm}: ${each.key}"
  description = "What the farm ${var.farm} calls, and nothing else"
  permissions = each.value
}

resource "google_project_iam_member" "look" {
  project = var.project
  role    = google_project_iam_custom_role.farm["look"].id
  member  = google_service_account.server.member
}

resource "google_project_iam_member" "own" {
  project = var.project
  role    = google_project_iam_custom_role.farm["own"].id
  member  = google_service_account.server.member

  condition {
    title       = local.ours.title
    description = local.ours.description
    expression  = local.ours.expression
  }
}

resource "google_compute_subnetwork_iam_member" "join" {
  for_each   = google_compute_subnetwork.worker
  project    = var.project
  region     = var.region
  subnetwork = each.value.name
  role       = google_project_iam_custom_role.farm["join"].id
  member     = google_service_account.server.member
}

resource "google_service_account_iam_member" "give" {
  service_account_id = google_service_account.worker.name
  role               = google_project_iam_custom_role.farm["give"].id
  member             = google_service_account.server.member
}

# ---------------------------------------------------------------- the bucket

resource "google_storage_bucket_iam_member" "keep_logs" {
  bucket = google_storage_bucket.farm.name
  role   = "roles/storage.objectUser"
  member = google_service_account.server.member

  condition {
    title      = "logs"
    expression = "resource.name.startsWith(\"${local.objects}/logs/\")"
  }
}

resource "google_storage_bucket_iam_member" "fetch_itself" {
  bucket = google_storage_bucket.farm.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.server.member

  condition {
    title      = "assets"
    expression = "resource.name.startsWith(\"${local.objects}/assets/\")"
  }
}

resource "google_storage_bucket_iam_member" "read_assets" {
  bucket = google_storage_bucket.farm.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.worker.member

  condition {
    title      = "assets"
    expression = "resource.type == \"storage.googleapis.com/Bucket\" || resource.name.startsWith(\"${local.objects}/assets/\")"
  }
}

resource "google_storage_bucket_iam_member" "write_results" {
  bucket = google_storage_bucket.farm.name
  role   = "roles/storage.objectCreator"
  member = google_service_account.worker.member

  condition {
    title      = "results"
    expression = "resource.name.startsWith(\"${local.objects}/results/\")"
  }
}

resource "google_storage_bucket_iam_member" "read_studio" {
  for_each = toset(var.asset_buckets)
  bucket   = each.key
  role     = "roles/storage.objectViewer"
  member   = google_service_account.worker.member
}
