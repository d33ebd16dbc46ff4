"""Values from anywhere on terminals, in tables, shells and spreadsheets."""
