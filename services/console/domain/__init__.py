"""What pages show and what forms say, without asking anybody."""
