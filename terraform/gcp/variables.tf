variable "project" {
  type        = string
  description = "The project that the farm is in."
}

variable "region" {
  type        = string
  default     = "europe-west1"
  description = "Where it is."
}

variable "farm" {
  type        = string
  default     = "coalition"
  description = "The farm's name, as in [server] farm of cloud.ini: machines are told apart by it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.farm))
    error_message = "Small letters, digits and hyphens, 3 to 20 of them, a letter first, no hyphen last."
  }
}

variable "cidr" {
  type        = string
  default     = "10.65.0.0/16"
  description = "The network's addresses; they must not be those of the office."
}

variable "zones" {
  type        = list(string)
  description = "Zones of the region, such as europe-west1-b, each with a private subnet for workers: the more, the better spot machines are to be had."

  validation {
    condition     = length(var.zones) >= 1 && length(var.zones) <= 8
    error_message = "1 to 8 zones."
  }
}

variable "egress" {
  type        = string
  default     = "google"
  description = <<-TEXT
    How workers reach what is not in the network. none: nothing but what is in it. google: Google's own services too, buckets among them,
    by Private Google Access, which costs nothing. nat: everything by HTTPS, by Cloud NAT: about 0.0014 USD an hour for each machine
    up to 32 (0.045 USD for more), 0.005 USD an hour for the address, and 0.045 USD for each GB.
  TEXT

  validation {
    condition     = contains(["none", "google", "nat"], var.egress)
    error_message = "none, google or nat."
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
  description = "Networks of people, behind a VPN or in the Internet: they may use the server in this network."
}

variable "server_cidrs" {
  type        = list(string)
  default     = []
  description = "Where a server outside of this network is, such as 10.1.2.3/32 behind a VPN; workers may call it."
}

variable "ssh_cidrs" {
  type        = list(string)
  default     = []
  description = "Networks that may use SSH on the server; empty: nobody."
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

variable "announce" {
  type        = bool
  default     = true
  description = "Tell the project's machines the server's address, as the attribute coalition-server; no for the second farm of a project."
}

variable "server" {
  type = object({
    image          = optional(string, "projects/debian-cloud/global/images/family/debian-12")
    machine_type   = optional(string, "e2-medium")
    disk_gb        = optional(number, 50)
    public_address = optional(bool, false)
  })
  default     = null
  description = "A server in this network; null: it is elsewhere. `image` has Debian 12. It is reached by VPN, or at a public address."
}

variable "wheel_url" {
  type        = string
  default     = ""
  description = "Where the server instance gets Coalition: gs://BUCKET/assets/coalition.whl; empty: from PyPI."
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

variable "kms_key" {
  type        = string
  default     = null
  description = "A key of the studio's own for the bucket and the server's disk; null: Google's, which encrypt them, too."
}

variable "billing_account" {
  type        = string
  default     = ""
  description = "The account of `monthly_budget`, such as 012345-6789AB-CDEF01."
}

variable "monthly_budget" {
  type        = number
  default     = 0
  description = "Google itself warns at 80 and 100 % of it, in the account's currency, a second net beside Coalition's own budgets; 0: it does not."
}

variable "budget_emails" {
  type        = list(string)
  default     = []
  description = "Who is warned, beside the account's administrators."
}

variable "pool" {
  type = object({
    name     = optional(string, "render")
    types    = optional(list(string), ["n2-standard-16", "c2-standard-16"])
    image    = optional(string, "family:coalition-worker")
    affinity = optional(list(string), ["linux"])
    funding  = optional(string, "8h")
    max      = optional(number, 10)
  })
  default     = {}
  description = "What the snippet for cloud.ini says of the pool."
}
