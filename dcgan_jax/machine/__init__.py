"""What everything stands on: devices, processes, files, signals, the heap, random keys, errors."""
