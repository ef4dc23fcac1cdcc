"""What surveys may cost, are likely to cost and did cost: budgets, estimates, usage."""
