variable "farm" {
  type        = string
  default     = "coalition"
  description = "The farm's name, as in [server] farm of cloud.ini: machines are told apart by it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}$", var.farm))
    error_message = "Small letters, digits and hyphens, 2 to 21 of them, a letter first."
  }
}

variable "cidr" {
  type        = string
  default     = "10.64.0.0/16"
  description = "The network's addresses; they must not be those of the office."
}

variable "zones" {
  type        = list(string)
  description = "Availability zones, each with a private subnet for workers: the more, the better spot machines are to be had."

  validation {
    condition     = length(var.zones) >= 1 && length(var.zones) <= 8
    error_message = "1 to 8 zones."
  }
}

variable "egress" {
  type        = string
  default     = "endpoints"
  description = <<-TEXT
    How workers reach what is not in the network. none: only what is in it, and S3. endpoints: AWS's own services too, by private
    endpoints: about 0.01 USD an hour for each service and zone. nat: everything, by one NAT gateway: about 0.045 USD an hour, and
    0.045 USD for each GB.
  TEXT

  validation {
    condition     = contains(["none", "endpoints", "nat"], var.egress)
    error_message = "none, endpoints or nat."
  }
}

variable "port" {
  type        = number
  default     = 19211
  description = "The server's port."
}

variable "office_cidrs" {
  type        = list(string)
  default     = []
  description = "Networks of people: they may use the server in this network."
}

variable "server_cidrs" {
  type        = list(string)
  default     = []
  description = "Where a server outside of this network is, such as 10.1.2.3/32 behind a VPN; workers may call it."
}

variable "ssh_cidrs" {
  type        = list(string)
  default     = []
  description = "Networks that may use SSH on the server; empty: nobody. Session Manager works without."
}

variable "domain" {
  type        = string
  default     = "render.internal"
  description = "The network's private zone of names; the server is `coalition` in it."
}

variable "server_address" {
  type        = string
  default     = ""
  description = "What `coalition` is in it, if the server is elsewhere; empty: the server instance, if there is one."
}

variable "server" {
  type = object({
    image         = string
    instance_type = optional(string, "t3.medium")
    disk_gib      = optional(number, 50)
  })
  default     = null
  description = "A server in this network; null: it is elsewhere. `image` has Debian 12 or Ubuntu."
}

variable "wheel_url" {
  type        = string
  default     = ""
  description = "Where the server instance gets Coalition: s3://BUCKET/coalition.whl in this module's bucket; empty: from PyPI."
}

variable "asset_buckets" {
  type        = list(string)
  default     = []
  description = "The studio's own buckets that workers may read."
}

variable "log_days" {
  type        = number
  default     = 90
  description = "Logs in the bucket are deleted after so many days."
}

variable "monthly_budget_usd" {
  type        = number
  default     = 0
  description = "AWS itself warns at 80 and 100 % of it, a second net beside Coalition's own budgets; 0: it does not."
}

variable "budget_emails" {
  type        = list(string)
  default     = []
  description = "Who is warned."
}

variable "spot_service_role" {
  type        = bool
  default     = false
  description = "Make the account's role for spot machines; yes once in an account that never had one."
}

variable "pool" {
  type = object({
    name     = optional(string, "render")
    types    = optional(list(string), ["c6i.4xlarge", "c5.4xlarge"])
    image    = optional(string, "tag:role=coalition-worker")
    affinity = optional(list(string), ["linux"])
    max      = optional(number, 10)
  })
  default     = {}
  description = "What the snippet for cloud.ini says of the pool."
}
