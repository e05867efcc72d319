output "cloud_ini" {
  description = "The pool for cloud.ini: `terraform output -raw cloud_ini >> cloud.ini`. Budgets are for the studio to set."
  value       = <<-INI
    # for [server] farm = ${var.farm}
    [pool ${var.pool.name}]
    provider = aws
    region = ${local.region}
    types = ${join(", ", var.pool.types)}
    image = ${var.pool.image}
    affinity = ${join(", ", var.pool.affinity)}
    subnets = ${join(", ", [for zone in var.zones : aws_subnet.worker[zone].id])}
    security_groups = ${aws_security_group.worker.id}
    instance_profile = ${aws_iam_instance_profile.worker.name}
    notices_queue = ${aws_sqs_queue.notices.id}
    max = ${var.pool.max}
  INI
}

output "server_role" {
  description = "The role of a server; one elsewhere takes a user with the same policies."
  value       = aws_iam_role.server.name
}

output "server_address" {
  description = "The server's public address, if it is here."
  value       = [for address in aws_eip.server : address.public_ip]
}

output "bucket" {
  description = "The farm's bucket: logs/, assets/ and results/."
  value       = aws_s3_bucket.farm.id
}
