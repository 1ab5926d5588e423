"""The services that a cluster uses, as they come through the chain."""

import subprocess
import sys
import time

import pytest

REGIONS = [
    "us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1",
    "eu-central-1", "eu-west-1", "eu-west-2", "eu-west-3", "eu-north-1",
    "ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2",
]  # fmt: skip
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


@pytest.mark.parametrize("region", ["us-west-1", "eu-north-1", "ap-southeast-2"])
def test_a_launch_works_in_any_region(sandbox, region):
    sandbox.set(boot="none")
    image = sandbox.client("ssm", region).get_parameter(Name=IMAGE)["Parameter"]["Value"]
    ec2 = sandbox.client("ec2", region)
    (instance,) = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)[
        "Instances"
    ]
    assert instance["Placement"]["AvailabilityZone"].startswith(region)
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def test_every_region_has_the_image_parameter(sandbox):
    for region in REGIONS:
        assert (
            sandbox.client("ssm", region).get_parameter(Name=IMAGE)["Parameter"]["Value"].startswith("ami-")
        )


def test_logs_can_be_written_and_read(sandbox):
    logs = sandbox.client("logs")
    logs.create_log_group(logGroupName="group")
    logs.create_log_stream(logGroupName="group", logStreamName="stream")
    events = [{"timestamp": int(time.time() * 1000), "message": f"line {n}"} for n in range(3)]
    logs.put_log_events(logGroupName="group", logStreamName="stream", logEvents=events)
    seen = logs.filter_log_events(logGroupName="group")["events"]
    assert [event["message"] for event in seen] == ["line 0", "line 1", "line 2"]
    logs.delete_log_group(logGroupName="group")


def test_log_streams_are_read_by_how_their_names_begin(sandbox):
    logs = sandbox.client("logs")
    logs.create_log_group(logGroupName="begun")
    for name in ("a/1", "a/2", "b/1"):
        logs.create_log_stream(logGroupName="begun", logStreamName=name)
        events = [{"timestamp": int(time.time() * 1000), "message": name}]
        logs.put_log_events(logGroupName="begun", logStreamName=name, logEvents=events)
    for prefix, names in (("a/", {"a/1", "a/2"}), ("b", {"b/1"}), ("c", set())):
        seen = logs.filter_log_events(logGroupName="begun", logStreamNamePrefix=prefix)["events"]
        assert {event["message"] for event in seen} == names
    logs.delete_log_group(logGroupName="begun")


def test_secure_parameters_can_be_written_and_found_by_path(sandbox):
    ssm = sandbox.client("ssm")
    ssm.put_parameter(Name="/p/a/node", Value="secret", Type="SecureString")
    seen = ssm.get_parameters_by_path(Path="/p", Recursive=True, WithDecryption=True)["Parameters"]
    assert [(entry["Name"], entry["Value"]) for entry in seen] == [("/p/a/node", "secret")]
    assert ssm.get_parameter(Name="/p/a/node")["Parameter"]["Value"] != "secret"
    ssm.delete_parameter(Name="/p/a/node")


def test_large_objects_pass_while_another_call_waits(sandbox):
    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="large")
    body = b"0123456789abcdef" * (1 << 19)  # 8 MiB
    s3.put_object(Bucket="large", Key="a/b", Body=body, Metadata={"under_score": "1"})
    answer = s3.get_object(Bucket="large", Key="a/b")
    assert answer["Body"].read() == body
    assert answer["Metadata"] == {"under_score": "1"}
    ranged = s3.get_object(Bucket="large", Key="a/b", Range="bytes=5-9")
    assert ranged["Body"].read() == b"56789"
    assert s3.head_object(Bucket="large", Key="a/b")["ContentLength"] == len(body)
    s3.delete_object(Bucket="large", Key="a/b")
    s3.delete_bucket(Bucket="large")


def test_multipart_uploads_and_presigned_urls_work(sandbox):
    import urllib.request

    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="parts")
    upload = s3.create_multipart_upload(Bucket="parts", Key="k")["UploadId"]
    tags = []
    for number in (1, 2):
        part = s3.upload_part(
            Bucket="parts", Key="k", UploadId=upload, PartNumber=number, Body=b"x" * (5 << 20)
        )
        tags.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket="parts", Key="k", UploadId=upload, MultipartUpload={"Parts": tags})
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "parts", "Key": "k"})
    with urllib.request.urlopen(url) as answer:
        assert len(answer.read()) == 10 << 20


def test_s3fs_works_by_the_environment_alone(sandbox):
    pytest.importorskip("s3fs")
    import os

    code = (
        "import s3fs; f = s3fs.S3FileSystem(); f.mkdir('by-s3fs'); f.pipe('by-s3fs/x/y.csv', b'a,b');"
        "f.pipe('by-s3fs/x/z.csv', b'c'); print(f.cat('by-s3fs/x/y.csv').decode(), len(f.find('by-s3fs/x')))"
    )
    environ = {**os.environ, **sandbox.environment()}
    seen = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert seen.stdout.split() == ["a,b", "2"]


def test_resources_of_ec2_are_found_by_tag(world):
    world.sandbox.set(boot="none")
    value = f"tagged-{world.vpc}"

    def tags(kind):
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": "t", "Value": value}]}]}

    ec2, vpc = world.ec2, {"VpcId": world.vpc}
    data = {"LaunchTemplateName": value, "LaunchTemplateData": {"ImageId": world.image}}
    address = ec2.allocate_address(Domain="vpc", **tags("elastic-ip"))["AllocationId"]
    nat = {"SubnetId": world.subnet, "AllocationId": address}
    service = {"ServiceName": "com.amazonaws.us-east-1.s3"}
    made = {
        address,
        ec2.create_vpc(CidrBlock="10.0.0.0/16", **tags("vpc"))["Vpc"]["VpcId"],
        ec2.create_subnet(CidrBlock="10.0.99.0/24", **vpc, **tags("subnet"))["Subnet"]["SubnetId"],
        ec2.create_internet_gateway(**tags("internet-gateway"))["InternetGateway"]["InternetGatewayId"],
        ec2.create_route_table(**vpc, **tags("route-table"))["RouteTable"]["RouteTableId"],
        ec2.create_security_group(GroupName="g", Description="g", **vpc, **tags("security-group"))["GroupId"],
        ec2.create_nat_gateway(**nat, **tags("natgateway"))["NatGateway"]["NatGatewayId"],
        ec2.create_vpc_endpoint(**vpc, **service, **tags("vpc-endpoint"))["VpcEndpoint"]["VpcEndpointId"],
        ec2.create_launch_template(**data, **tags("launch-template"))["LaunchTemplate"]["LaunchTemplateId"],
        world.run(**tags("instance"))[0]["InstanceId"],
    }
    pages = world.sandbox.client("resourcegroupstaggingapi").get_paginator("get_resources")
    found = pages.paginate(TagFilters=[{"Key": "t", "Values": [value]}]).build_full_result()
    arns = [entry["ResourceARN"] for entry in found["ResourceTagMappingList"]]
    assert {arn.split("/")[-1] for arn in arns} == made
