"""The words of the gate and their bytes; pure."""
