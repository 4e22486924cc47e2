"""The rules above the store: group commit and leases per queue, the Work stream's logic, watching."""
