"""What every other room needs: problems, commands, files, the host."""
