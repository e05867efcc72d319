output "cloud_ini" {
  description = "The pool for cloud.ini: `terraform output -raw cloud_ini >> cloud.ini`. Budgets are for the studio to set."
  value       = <<-INI
    # for [server] farm = ${var.farm}
    [pool ${var.pool.name}]
    provider = gce
    project = ${var.project}
    region = ${var.region}
    zones = ${join(", ", var.zones)}
    types = ${join(", ", var.pool.types)}
    image = ${var.pool.image}
    affinity = ${join(", ", var.pool.affinity)}
    subnetwork = ${var.farm}-worker-{zone}
    service_account = ${google_service_account.worker.email}
    funding = ${var.pool.funding}
    max = ${var.pool.max}
  INI
}

output "server_account" {
  description = "Who the server is to Google; one elsewhere takes a key of this account, or workload identity."
  value       = google_service_account.server.email
}

output "server_address" {
  description = "The server's addresses, if it is here: in the network, and in the Internet if it was asked for."
  value       = concat([for one in google_compute_address.server : one.address], [for one in google_compute_address.public : one.address])
}

output "bucket" {
  description = "The farm's bucket: logs/, assets/ and results/."
  value       = google_storage_bucket.farm.name
}
