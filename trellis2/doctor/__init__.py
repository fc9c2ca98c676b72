"""The report on a machine: versions, cards, backends, disks, weights, licences; and a test of itself."""
