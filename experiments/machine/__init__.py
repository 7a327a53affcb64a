"""What a process runs on: devices, memory, signals, other processes."""
