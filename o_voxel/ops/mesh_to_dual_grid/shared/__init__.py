"""What the steps of this op share, one module a compiler."""
