"""What the rules of a queue cost those who use none of them: now against before there were rules, and beside jobs of those who use them."""
