"""What `deploy/compose.yaml` needs beside images: its secrets, and the roles in PostgreSQL."""
