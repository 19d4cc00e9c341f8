"""The data owner's side: policy, prices, approvals, plans, ledger, registered data."""
