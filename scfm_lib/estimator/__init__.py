"""What training would take, before it starts: parameters, memory, time, cost, and what would save some."""
