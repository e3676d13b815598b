"""What every method with a source and a target task shares."""
