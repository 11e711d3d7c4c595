"""What a run would take, told before it: its own code works on tensors that have sizes and no values."""
