"""What the decisions topic means: which record is the decision, and the table folded from it; pure."""
