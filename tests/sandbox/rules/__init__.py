"""AWS's rules strike: each row of the table has a call that is refused with AWS's code, by plain boto3."""
