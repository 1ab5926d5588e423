"""IAM in the sandbox: calls are judged by the policies of whoever signed them, as AWS does.

    table       what AWS lets policies say about each action; from a maintained source
    decide      policies and a request: allowed or not; pure
    requests    from a call to all that it asks for: actions, resources, condition keys
    ec2         the same for EC2, whose calls touch many resources
    launch      what of a launch its template says
    principals  who signed, and with which policies
    evaluator   the judge in the chain; its record of decisions; SimulatePrincipalPolicy

Identity policies only: no resource policies, service control policies or permissions boundaries.
"""
