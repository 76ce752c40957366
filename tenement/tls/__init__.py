"""Certificates: which names need one, how they are got through certbot, kept, checked and chosen."""
