"""What travels on the bus: CloudEvents 1.0 in JSON, of five kinds."""
