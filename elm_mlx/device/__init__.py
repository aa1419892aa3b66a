"""What this machine has, and how it computes: its memory, its backend, and the policy for each device."""
