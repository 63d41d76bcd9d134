"""The pages: each puts components together and keeps them fed."""
