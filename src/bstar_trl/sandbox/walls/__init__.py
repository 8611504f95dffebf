"""What keeps a program in: namespaces, filters and limits, and the processes behind them."""
