"""What a server needs: the signatures of an export, its checks, its warm-up, configurations."""
