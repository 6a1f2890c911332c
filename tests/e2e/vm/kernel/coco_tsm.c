// SPDX-License-Identifier: GPL-2.0
/*
 * A TEE for test machines: registers a provider with the kernel's own configfs-tsm and lets a program answer.
 *
 * What the provider would ask of hardware or hypervisor is read from /dev/coco_platform as a struct request; the
 * answer is written there as a struct reply with its blobs behind it. One request at a time, in order.
 *
 * insmod coco_tsm.ko provider=sev_guest | tdx_guest | arm_cca_guest
 *
 * sev_guest also gets /sys/devices/platform/sev-guest; tdx_guest also gets /dev/tdx_guest with TDX_CMD_GET_REPORT0
 * and the measurement registers that Linux 6.16 shows below /sys/devices/virtual/misc/tdx_guest/measurements.
 */
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/tsm.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#define TDX_REPORTDATA_LEN 64
#define TDX_REPORT_LEN 1024
#define TDX_CMD_GET_REPORT0 _IOWR('T', 1, u8[TDX_REPORTDATA_LEN + TDX_REPORT_LEN])
#define MR_SIZE 48
#define ANSWER_SECONDS 30

enum kind { REPORT, TDREPORT, MR_READ, MR_EXTEND };

struct request {
	u32 id;
	u32 kind;
	u32 number; /* privilege level or register */
	u32 length;
	u8 data[TSM_INBLOB_MAX];
};

struct reply {
	u32 id;
	s32 error; /* 0 or -errno, handed on as the provider's own */
	u32 length[3]; /* outblob, auxblob, manifestblob */
};

struct answer {
	u8 *blob[3];
	u32 length[3];
};

static char *provider = "sev_guest";
module_param(provider, charp, 0444);
MODULE_PARM_DESC(provider, "name shown in configfs-tsm");

static unsigned int privlevel_floor;
module_param(privlevel_floor, uint, 0444);

static bool registers = true;
module_param(registers, bool, 0444);
MODULE_PARM_DESC(registers, "show measurement registers in sysfs, as Linux 6.16 does");

static DEFINE_MUTEX(asking); /* one request at a time */
static DEFINE_MUTEX(state); /* guards what follows */
static DECLARE_WAIT_QUEUE_HEAD(changed);
static struct request request;
static struct answer answer;
static u32 last_id;
static bool waiting, fetched, answered;
static int answer_error;

static void drop(struct answer *old)
{
	for (int i = 0; i < 3; i++)
		kvfree(old->blob[i]);
	memset(old, 0, sizeof(*old));
}

/* Ask the program on the other side of /dev/coco_platform. The caller owns the blobs of *out. */
static int ask(enum kind kind, u32 number, const u8 *data, size_t length, struct answer *out)
{
	long left;
	int error;

	if (length > sizeof(request.data))
		return -EINVAL;
	if (mutex_lock_interruptible(&asking))
		return -EINTR;
	scoped_guard(mutex, &state) {
		request = (struct request){ .id = ++last_id, .kind = kind, .number = number, .length = length };
		memcpy(request.data, data, length);
		waiting = true;
		fetched = answered = false;
	}
	wake_up_all(&changed);
	left = wait_event_interruptible_timeout(changed, READ_ONCE(answered), ANSWER_SECONDS * HZ);
	scoped_guard(mutex, &state) {
		waiting = false;
		error = answered ? answer_error : left < 0 ? -EINTR : -ETIMEDOUT;
		if (!error) {
			*out = answer;
			memset(&answer, 0, sizeof(answer));
		}
		drop(&answer);
	}
	mutex_unlock(&asking);
	return error;
}

static ssize_t platform_read(struct file *file, char __user *to, size_t size, loff_t *offset)
{
	if (size < sizeof(request))
		return -EINVAL;
	for (;;) {
		if (wait_event_interruptible(changed, READ_ONCE(waiting) && !READ_ONCE(fetched)))
			return -ERESTARTSYS;
		guard(mutex)(&state);
		if (!waiting || fetched)
			continue;
		if (copy_to_user(to, &request, sizeof(request)))
			return -EFAULT;
		fetched = true;
		return sizeof(request);
	}
}

static int take_blobs(const char __user *from, size_t size, const struct reply *reply, struct answer *taken)
{
	for (int i = 0; i < 3; i++) {
		u32 length = reply->length[i];

		if (length > size || length > TSM_OUTBLOB_MAX)
			return -EINVAL;
		if (!length)
			continue;
		taken->blob[i] = kvmalloc(length, GFP_KERNEL);
		if (!taken->blob[i])
			return -ENOMEM;
		if (copy_from_user(taken->blob[i], from, length))
			return -EFAULT;
		taken->length[i] = length;
		from += length;
		size -= length;
	}
	return size ? -EINVAL : 0;
}

static ssize_t platform_write(struct file *file, const char __user *from, size_t size, loff_t *offset)
{
	struct answer taken = {};
	struct reply reply;
	int error;

	if (size < sizeof(reply))
		return -EINVAL;
	if (copy_from_user(&reply, from, sizeof(reply)))
		return -EFAULT;
	if (reply.error > 0 || reply.error < -MAX_ERRNO)
		return -EINVAL;
	error = take_blobs(from + sizeof(reply), size - sizeof(reply), &reply, &taken);
	if (!error) {
		guard(mutex)(&state);
		if (waiting && fetched && !answered && reply.id == request.id) {
			swap(answer, taken);
			answer_error = reply.error;
			WRITE_ONCE(answered, true);
		}
	}
	drop(&taken);
	wake_up_all(&changed);
	return error ?: size;
}

static const struct file_operations platform_operations = {
	.owner = THIS_MODULE,
	.read = platform_read,
	.write = platform_write,
};

static struct miscdevice platform = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "coco_platform",
	.fops = &platform_operations,
	.mode = 0600,
};

/* configfs-tsm: input lengths and visible attributes as the kernel's three providers have them. */

static bool is(const char *name)
{
	return !strcmp(provider, name);
}

static int report_new(struct tsm_report *report, void *data)
{
	struct answer got = {};
	size_t least = is("arm_cca_guest") ? 32 : 64;
	int error;

	if (report->desc.inblob_len < least || report->desc.inblob_len > 64)
		return -EINVAL;
	error = ask(REPORT, report->desc.privlevel, report->desc.inblob, report->desc.inblob_len, &got);
	if (error)
		return error;
	report->outblob = got.blob[0];
	report->outblob_len = got.length[0];
	report->auxblob = got.blob[1];
	report->auxblob_len = got.length[1];
	report->manifestblob = got.blob[2];
	report->manifestblob_len = got.length[2];
	return 0;
}

static bool attr_visible(int n)
{
	if (n == TSM_REPORT_GENERATION || n == TSM_REPORT_PROVIDER)
		return true;
	return is("sev_guest") && (n == TSM_REPORT_PRIVLEVEL || n == TSM_REPORT_PRIVLEVEL_FLOOR);
}

static bool bin_attr_visible(int n)
{
	return n == TSM_REPORT_INBLOB || n == TSM_REPORT_OUTBLOB || (is("sev_guest") && n == TSM_REPORT_AUXBLOB);
}

static struct tsm_ops ops = {
	.report_new = report_new,
	.report_attr_visible = attr_visible,
	.report_bin_attr_visible = bin_attr_visible,
};

/* /dev/tdx_guest and its registers */

static long tdx_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	u8 __user *where = (u8 __user *)argument;
	u8 report_data[TDX_REPORTDATA_LEN];
	struct answer got = {};
	int error;

	if (command != TDX_CMD_GET_REPORT0)
		return -ENOTTY;
	if (copy_from_user(report_data, where, sizeof(report_data)))
		return -EFAULT;
	error = ask(TDREPORT, 0, report_data, sizeof(report_data), &got);
	if (!error && got.length[0] != TDX_REPORT_LEN)
		error = -EIO;
	if (!error && copy_to_user(where + TDX_REPORTDATA_LEN, got.blob[0], TDX_REPORT_LEN))
		error = -EFAULT;
	drop(&got);
	return error;
}

static ssize_t mr_read(struct file *file, struct kobject *kobj, struct bin_attribute *attr, char *to,
		       loff_t offset, size_t count)
{
	struct answer got = {};
	ssize_t size = ask(MR_READ, (uintptr_t)attr->private, NULL, 0, &got);

	if (!size)
		size = memory_read_from_buffer(to, count, &offset, got.blob[0], got.length[0]);
	drop(&got);
	return size;
}

static ssize_t mr_write(struct file *file, struct kobject *kobj, struct bin_attribute *attr, char *from,
			loff_t offset, size_t count)
{
	struct answer got = {};
	int error;

	if (offset || count != MR_SIZE)
		return -EINVAL;
	error = ask(MR_EXTEND, (uintptr_t)attr->private, from, count, &got);
	drop(&got);
	return error ?: count;
}

#define MR(ident, label, bits, number, writer)                                                                         \
	static struct bin_attribute mr_##ident = {                                                                     \
		.attr = { .name = label, .mode = bits },                                                               \
		.size = MR_SIZE,                                                                                       \
		.private = (void *)(number),                                                                           \
		.read = mr_read,                                                                                       \
		.write = writer,                                                                                       \
	}

MR(rtmr0, "rtmr0:sha384", 0644, 0, mr_write);
MR(rtmr1, "rtmr1:sha384", 0644, 1, mr_write);
MR(rtmr2, "rtmr2:sha384", 0644, 2, mr_write);
MR(rtmr3, "rtmr3:sha384", 0644, 3, mr_write);
MR(mrtd, "mrtd:sha384", 0444, 4, NULL);
MR(mrconfigid, "mrconfigid", 0444, 5, NULL);
MR(mrowner, "mrowner", 0444, 6, NULL);
MR(mrownerconfig, "mrownerconfig", 0444, 7, NULL);

static struct bin_attribute *mrs[] = {
	&mr_rtmr0, &mr_rtmr1, &mr_rtmr2, &mr_rtmr3, &mr_mrtd, &mr_mrconfigid, &mr_mrowner, &mr_mrownerconfig, NULL,
};
static const struct attribute_group measurements = { .name = "measurements", .bin_attrs = mrs };
static const struct attribute_group *tdx_groups[] = { &measurements, NULL };
static const struct file_operations tdx_operations = { .owner = THIS_MODULE, .unlocked_ioctl = tdx_ioctl };
static struct miscdevice tdx_guest = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tdx_guest",
	.fops = &tdx_operations,
	.groups = tdx_groups,
	.mode = 0600,
};

static struct platform_device *sev_guest;

static int __init start(void)
{
	int error = misc_register(&platform);

	if (error)
		return error;
	if (!registers)
		tdx_guest.groups = NULL;
	if (is("tdx_guest"))
		error = misc_register(&tdx_guest);
	if (is("sev_guest")) {
		sev_guest = platform_device_register_simple("sev-guest", PLATFORM_DEVID_NONE, NULL, 0);
		error = PTR_ERR_OR_ZERO(sev_guest);
	}
	if (error)
		goto no_device;
	ops.name = provider;
	ops.privlevel_floor = privlevel_floor;
	error = tsm_register(&ops, NULL);
	if (!error)
		return 0;
	if (is("tdx_guest"))
		misc_deregister(&tdx_guest);
	if (is("sev_guest"))
		platform_device_unregister(sev_guest);
no_device:
	misc_deregister(&platform);
	return error;
}

static void __exit stop(void)
{
	tsm_unregister(&ops);
	if (is("tdx_guest"))
		misc_deregister(&tdx_guest);
	if (is("sev_guest"))
		platform_device_unregister(sev_guest);
	misc_deregister(&platform);
	drop(&answer);
}

module_init(start);
module_exit(stop);
MODULE_DESCRIPTION("configfs-tsm provider answered by a program, for tests");
MODULE_LICENSE("GPL");
