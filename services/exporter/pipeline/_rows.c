/* Messages of a binary COPY to JSON Lines, byte for byte what PostgreSQL's row_to_json writes.
 *
 * Formats: "Binary Format" of the COPY reference page for header, rows and trailer; the types' *_send functions for
 * values; json.c, numeric.c and datetime.c for what row_to_json makes of them. `kinds` are explained in rows.py.
 *
 * A decoder holds no state between calls and lets go of the GIL, so threads may share one. All input is untrusted:
 * every length is checked against the message before a byte is read.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__ /* of GCC and Clang, as __builtin_ctz is */
#include <emmintrin.h>
#endif

/* PostgreSQL builds no larger row, either. */
#define MAX_RECORD ((size_t)1 << 30)
/* What is always free behind the room that was asked for, so that values of fixed size need not ask. */
#define SLACK 128
/* How much of a text is escaped before more room is asked for. */
#define PIECE 4096
#define MAX_COLUMNS 1664

enum outcome { DONE, MALFORMED, TOO_LARGE, NO_MEMORY };

/* ---- input ----------------------------------------------------------------------------------------------------- */

static inline uint16_t read16(const unsigned char *in) { return (uint16_t)(in[0] << 8 | in[1]); }

static inline uint32_t read32(const unsigned char *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

static inline uint64_t read64(const unsigned char *in) { return (uint64_t)read32(in) << 32 | read32(in + 4); }

/* ---- numbers and times: at most SLACK bytes, so no checks -------------------------------------------------------- */

static const char PAIRS[] =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

static inline char *two_digits(char *out, unsigned value)
{
    memcpy(out, PAIRS + 2 * value, 2);
    return out + 2;
}

static char *unsigned_number(char *out, uint64_t value)
{
    char digits[20];
    char *at = digits + sizeof digits;
    while (value >= 100) {
        at -= 2;
        memcpy(at, PAIRS + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value >= 10) {
        at -= 2;
        memcpy(at, PAIRS + 2 * value, 2);
    } else {
        *--at = (char)('0' + value);
    }
    size_t size = (size_t)(digits + sizeof digits - at);
    memcpy(out, at, size);
    return out + size;
}

static inline char *number(char *out, int64_t value)
{
    if (value < 0) {
        *out++ = '-';
        return unsigned_number(out, 0 - (uint64_t)value);
    }
    return unsigned_number(out, (uint64_t)value);
}

static inline char *literal(char *out, const char *text, size_t size)
{
    memcpy(out, text, size);
    return out + size;
}
#define LITERAL(out, text) literal(out, text, sizeof(text) - 1)

#define DAYS_TO_2000 730425 /* from 0000-03-01, in the Gregorian calendar without a beginning */

/* Days since 2000-01-01 as year-month-day; returns whether the year is before Christ, which goes to the end. */
static char *calendar_day(char *out, int64_t days, int *before_christ)
{
    /* Years that begin in March have their leap day at the end: 400 of them are 146,097 days, 153 are 5 months. */
    int64_t shifted = days + DAYS_TO_2000;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    unsigned of_era = (unsigned)(shifted - era * 146097);
    unsigned year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned shifted_month = (5 * of_year + 2) / 153;
    unsigned day = of_year - (153 * shifted_month + 2) / 5 + 1;
    unsigned month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    int64_t year = (int64_t)year_of_era + era * 400 + (month <= 2);

    *before_christ = year <= 0;
    uint64_t shown = (uint64_t)(year <= 0 ? 1 - year : year);
    if (shown < 10000) {
        out = two_digits(out, (unsigned)shown / 100);
        out = two_digits(out, (unsigned)shown % 100);
    } else {
        out = unsigned_number(out, shown);
    }
    *out++ = '-';
    out = two_digits(out, month);
    *out++ = '-';
    return two_digits(out, day);
}

static char *date(char *out, int32_t days)
{
    int before_christ;
    if (days == INT32_MAX)
        return LITERAL(out, "\"infinity\"");
    if (days == INT32_MIN)
        return LITERAL(out, "\"-infinity\"");
    *out++ = '"';
    out = calendar_day(out, days, &before_christ);
    if (before_christ)
        out = LITERAL(out, " BC");
    *out++ = '"';
    return out;
}

static char *moment(char *out, int64_t microseconds, int has_zone)
{
    const int64_t day = INT64_C(86400000000);
    int before_christ;
    if (microseconds == INT64_MAX)
        return LITERAL(out, "\"infinity\"");
    if (microseconds == INT64_MIN)
        return LITERAL(out, "\"-infinity\"");
    int64_t days = microseconds / day, of_day = microseconds % day;
    if (of_day < 0) {
        of_day += day;
        days--;
    }
    unsigned seconds = (unsigned)(of_day / 1000000), fraction = (unsigned)(of_day % 1000000);
    *out++ = '"';
    out = calendar_day(out, days, &before_christ);
    *out++ = 'T';
    out = two_digits(out, seconds / 3600);
    *out++ = ':';
    out = two_digits(out, seconds / 60 % 60);
    *out++ = ':';
    out = two_digits(out, seconds % 60);
    if (fraction) {
        *out++ = '.';
        out = two_digits(out, fraction / 10000);
        out = two_digits(out, fraction / 100 % 100);
        out = two_digits(out, fraction % 100);
        while (out[-1] == '0')
            out--;
    }
    if (has_zone)
        out = LITERAL(out, "+00:00");
    if (before_christ)
        out = LITERAL(out, " BC");
    *out++ = '"';
    return out;
}

static const char HEX[] = "0123456789abcdef";

static inline char *hexadecimal(char *out, const unsigned char *in, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = HEX[in[i] >> 4];
        out[2 * i + 1] = HEX[in[i] & 15];
    }
    return out + 2 * size;
}

static char *uuid(char *out, const unsigned char *in)
{
    *out++ = '"';
    out = hexadecimal(out, in, 4);
    for (int part = 0; part < 3; part++) {
        *out++ = '-';
        out = hexadecimal(out, in + 4 + 2 * part, 2);
    }
    *out++ = '-';
    out = hexadecimal(out, in + 10, 6);
    *out++ = '"';
    return out;
}

/* ---- numeric ---------------------------------------------------------------------------------------------------- */

#define NUMERIC_HEADER 8
#define MAX_SCALE 0x3FFF

/* The bytes `numeric` may write. 0 when the value is malformed. */
static size_t numeric_bound(const unsigned char *in, size_t size)
{
    if (size < NUMERIC_HEADER)
        return 0;
    size_t digits = read16(in);
    int weight = (int16_t)read16(in + 2);
    unsigned sign = read16(in + 4), scale = read16(in + 6);
    if (size != NUMERIC_HEADER + 2 * digits || scale > MAX_SCALE)
        return 0;
    if (sign != 0 && sign != 0x4000 && (digits || (sign != 0xC000 && sign != 0xD000 && sign != 0xF000)))
        return 0;
    for (size_t i = 0; i < digits; i++)
        if (read16(in + NUMERIC_HEADER + 2 * i) > 9999)
            return 0;
    return 4 * ((weight < 0 ? 0 : (size_t)weight) + 1) + scale + 16;
}

/* Base 10,000: `weight` is the exponent of the first digit, digits that are missing at the end are zero. */
static char *numeric(char *out, const unsigned char *in)
{
    int digits = read16(in), weight = (int16_t)read16(in + 2);
    unsigned sign = read16(in + 4), scale = read16(in + 6);
    in += NUMERIC_HEADER;

    if (sign == 0xC000)
        return LITERAL(out, "\"NaN\"");
    if (sign == 0xD000)
        return LITERAL(out, "\"Infinity\"");
    if (sign == 0xF000)
        return LITERAL(out, "\"-Infinity\"");
    if (sign == 0x4000)
        *out++ = '-';
    if (weight < 0)
        *out++ = '0';
    for (int i = 0; i <= weight; i++) {
        unsigned digit = i < digits ? read16(in + 2 * i) : 0;
        if (i == 0) {
            out = unsigned_number(out, digit);
        } else {
            out = two_digits(out, digit / 100);
            out = two_digits(out, digit % 100);
        }
    }
    if (scale) {
        *out++ = '.';
        char *end = out + scale;
        for (int i = weight + 1; out < end; i++) {
            unsigned digit = i >= 0 && i < digits ? read16(in + 2 * i) : 0;
            out = two_digits(out, digit / 100);
            out = two_digits(out, digit % 100);
        }
        out = end;
    }
    return out;
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* For each byte: 0 as it is, 'u' as \u00XX, else the letter behind the backslash. */
static const char ESCAPES[256] = {
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
    ['"'] = '"', ['\\'] = '\\',
};

static inline char *escaped(char *out, unsigned char byte)
{
    char letter = ESCAPES[byte];
    if (!letter) {
        *out++ = (char)byte;
        return out;
    }
    *out++ = '\\';
    *out++ = letter;
    if (letter == 'u') {
        out = LITERAL(out, "00");
        out = hexadecimal(out, &byte, 1);
    }
    return out;
}

#ifdef __SSE2__
#define STRIDE 16

/* One bit for each of 16 bytes that needs an escape. */
static inline uint32_t to_escape(__m128i block)
{
    __m128i controls = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1F)), block);
    __m128i quotes = _mm_cmpeq_epi8(block, _mm_set1_epi8('"'));
    __m128i backslashes = _mm_cmpeq_epi8(block, _mm_set1_epi8('\\'));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(controls, _mm_or_si128(quotes, backslashes)));
}
#else
#define STRIDE 8

/* Whether one of 8 bytes needs an escape; some others are reported, too, and are then looked at one by one. */
static inline int to_escape(uint64_t block)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t quotes = block ^ (ones * '"'), backslashes = block ^ (ones * '\\');
    uint64_t found = ((block - ones * 0x20) & ~block) | ((quotes - ones) & ~quotes) | ((backslashes - ones) & ~backslashes);
    return (found & tops) != 0;
}
#endif

/* A piece of a JSON string; `out` has room for 6 * size + STRIDE bytes. Reads up to `readable`, if that is farther. */
static char *escaped_piece(char *out, const unsigned char *in, size_t size, const unsigned char *readable)
{
    const unsigned char *end = in + size;
    while (in < end) {
#ifdef __SSE2__
        if (readable - in >= STRIDE) {
            __m128i block = _mm_loadu_si128((const __m128i *)in);
            _mm_storeu_si128((__m128i *)out, block);
            size_t left = (size_t)(end - in), clean = left < STRIDE ? left : STRIDE;
            uint32_t mask = to_escape(block);
            size_t first = mask ? (size_t)__builtin_ctz(mask) : STRIDE;
            if (first >= clean) {
                in += clean;
                out += clean;
            } else {
                out = escaped(out + first, in[first]);
                in += first + 1;
            }
            continue;
        }
#else
        if (end - in >= STRIDE) {
            uint64_t block;
            memcpy(&block, in, STRIDE);
            if (!to_escape(block)) {
                memcpy(out, in, STRIDE);
                in += STRIDE;
                out += STRIDE;
            } else {
                for (int i = 0; i < STRIDE; i++)
                    out = escaped(out, *in++);
            }
            continue;
        }
#endif
        out = escaped(out, *in++);
    }
    return out;
}

/* JSON with its line breaks as blanks; they are white space between tokens (RFC 8259, section 7). */
static char *one_line(char *out, const unsigned char *in, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (char)(in[i] == '\n' || in[i] == '\r' ? ' ' : in[i]);
    return out + size;
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

typedef struct {
    char *start;
    char *limit; /* SLACK before the end */
} Buffer;

typedef struct {
    Buffer lines;
    Buffer ends;
    size_t record;  /* where in `lines` the record begins */
    size_t records;
    size_t column;  /* that is being read */
    int is_over;    /* the trailer was read */
    enum outcome outcome;
} Work;

/* Where `at` is once there is room for `more` behind it, NULL when there is no memory. */
static char *buffer_grow(Work *work, Buffer *buffer, char *at, size_t more)
{
    size_t used = (size_t)(at - buffer->start), size = (size_t)(buffer->limit - buffer->start);
    size_t wanted = used + more > size + size / 2 ? used + more : size + size / 2;
    char *grown = PyMem_RawRealloc(buffer->start, wanted + SLACK);
    if (grown == NULL) {
        work->outcome = NO_MEMORY;
        return NULL;
    }
    buffer->start = grown;
    buffer->limit = grown + wanted;
    return grown + used;
}

static char *lines_grow(Work *work, char *out, size_t more)
{
    size_t of_record = (size_t)(out - work->lines.start) - work->record;
    if (of_record + more > MAX_RECORD + 8 * PIECE) {
        work->outcome = TOO_LARGE;
        return NULL;
    }
    return buffer_grow(work, &work->lines, out, more);
}

/* `out`, perhaps moved, with room for `more` and SLACK; NULL when `work->outcome` says why not. */
static inline char *reserve(Work *work, char *out, size_t more)
{
    return work->lines.limit - out >= (ptrdiff_t)more ? out : lines_grow(work, out, more);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

typedef struct {
    char *text; /* padded to whole blocks of 16 bytes */
    size_t size;
} Prefix;

typedef struct {
    PyObject_HEAD
    size_t columns;
    char *kinds;
    Prefix *prefixes;
    char *texts;         /* of all prefixes */
    size_t record_bytes; /* by which a record of values of fixed size is larger than its message, at most */
} Decoder;

static inline char *malformed(Work *work)
{
    work->outcome = MALFORMED;
    return NULL;
}

/* A value that is not NULL; `readable` is where the message ends. NULL when `work->outcome` says why not. */
static inline char *value(Work *work, char *out, char kind, const unsigned char *in, size_t size,
                          const unsigned char *readable)
{
    switch (kind) {
    case 't':
        *out++ = '"';
        while (size > PIECE) {
            if ((out = reserve(work, out, 6 * PIECE)) == NULL)
                return NULL;
            out = escaped_piece(out, in, PIECE, readable);
            in += PIECE;
            size -= PIECE;
        }
        if ((out = reserve(work, out, 6 * size)) == NULL)
            return NULL;
        out = escaped_piece(out, in, size, readable);
        *out++ = '"';
        return out;
    case 'b':
        if (size != 1)
            return malformed(work);
        return in[0] ? LITERAL(out, "true") : LITERAL(out, "false");
    case '2':
        return size == 2 ? number(out, (int16_t)read16(in)) : malformed(work);
    case '4':
        return size == 4 ? number(out, (int32_t)read32(in)) : malformed(work);
    case '8':
        return size == 8 ? number(out, (int64_t)read64(in)) : malformed(work);
    case 'o':
        if (size != 4)
            return malformed(work);
        *out++ = '"';
        out = unsigned_number(out, read32(in));
        *out++ = '"';
        return out;
    case 'n': {
        size_t bound = numeric_bound(in, size);
        if (!bound)
            return malformed(work);
        out = reserve(work, out, bound);
        return out == NULL ? NULL : numeric(out, in);
    }
    case 'z':
    case 's':
        return size == 8 ? moment(out, (int64_t)read64(in), kind == 'z') : malformed(work);
    case 'd':
        return size == 4 ? date(out, (int32_t)read32(in)) : malformed(work);
    case 'u':
        return size == 16 ? uuid(out, in) : malformed(work);
    case 'J':
        if (size < 2 || in[0] != 1)
            return malformed(work);
        out = reserve(work, out, size);
        return out == NULL ? NULL : literal(out, (const char *)in + 1, size - 1);
    case 'j':
        out = reserve(work, out, size);
        return out == NULL ? NULL : one_line(out, in, size);
    case 'x':
        if ((out = reserve(work, out, 2 * size)) == NULL)
            return NULL;
        out = LITERAL(out, "\"\\\\x");
        out = hexadecimal(out, in, size);
        *out++ = '"';
        return out;
    default: /* Decoder() takes no others */
        return malformed(work);
    }
}

/* How much larger than in its message, which has 4 bytes for its size, a value of this kind becomes. -1: no such kind.
 * What has no fixed size may become larger than that, and then the output grows. */
static int growth(char kind)
{
    switch (kind) {
    case 'b': case 't': case 'J': case 'j': case 'x':
        return 0;
    case '2': case '4': case '8': case 'o': case 'n': case 'd':
        return 8;
    case 'z': case 's': case 'u':
        return 24;
    default:
        return -1;
    }
}

/* Writes the row behind `in`, which is at its number of columns; where it ends, or NULL. */
static const unsigned char *row(const Decoder *decoder, Work *work, char **at, const unsigned char *in,
                                const unsigned char *end)
{
    char *out = reserve(work, *at, 0);
    if (out == NULL)
        return NULL;
    if (read16(in) != decoder->columns) {
        work->outcome = MALFORMED;
        return NULL;
    }
    in += 2;
    for (size_t column = 0; column < decoder->columns; column++) {
        const Prefix *prefix = &decoder->prefixes[column];
        work->column = column + 1;
        if (end - in < 4) {
            work->outcome = MALFORMED;
            return NULL;
        }
        int32_t size = (int32_t)read32(in);
        in += 4;
        if (size < -1 || size > end - in) {
            work->outcome = MALFORMED;
            return NULL;
        }
        if ((out = reserve(work, out, prefix->size)) == NULL)
            return NULL;
        for (size_t i = 0; i < prefix->size; i += 16)
            memcpy(out + i, prefix->text + i, 16);
        out += prefix->size;
        if (size == -1) {
            out = LITERAL(out, "null");
        } else {
            if ((out = value(work, out, decoder->kinds[column], in, (size_t)size, end)) == NULL)
                return NULL;
            in += size;
        }
    }
    if (decoder->columns == 0)
        *out++ = '{';
    *out++ = '}';
    *out++ = '\n';
    *at = out;
    return in;
}

static int record_ended(Work *work, char *out)
{
    uint64_t end = (uint64_t)(out - work->lines.start);
    char *at = work->ends.start + sizeof end * work->records;
    if (end - work->record > MAX_RECORD) {
        work->outcome = TOO_LARGE;
        return -1;
    }
    if (work->ends.limit - at < (ptrdiff_t)sizeof end && (at = buffer_grow(work, &work->ends, at, sizeof end)) == NULL)
        return -1;
    memcpy(at, &end, sizeof end);
    work->records++;
    work->record = (size_t)end;
    return 0;
}

static const unsigned char SIGNATURE[11] = "PGCOPY\n\377\r\n";
#define HEADER 19

/* Behind the header of a stream if one is here, which no row begins like: it would have 20,551 columns. */
static const unsigned char *after_header(Work *work, const unsigned char *in, const unsigned char *end)
{
    if (end - in < (ptrdiff_t)sizeof SIGNATURE || memcmp(in, SIGNATURE, sizeof SIGNATURE) != 0)
        return in;
    /* The upper half of the flags is for what a reader has to know. */
    if (end - in < HEADER || read16(in + 11) != 0 || read32(in + 15) > (size_t)(end - in - HEADER)) {
        work->outcome = MALFORMED;
        return NULL;
    }
    return in + HEADER + read32(in + 15);
}

static char *message(const Decoder *decoder, Work *work, char *out, const unsigned char *in, size_t size)
{
    const unsigned char *end = in + size;
    if ((in = after_header(work, in, end)) == NULL)
        return NULL;
    while (in < end) {
        work->column = 0;
        if (end - in < 2 || work->is_over)
            return malformed(work);
        if (read16(in) == 0xFFFF) {
            work->is_over = 1;
            in += 2;
            continue;
        }
        if ((in = row(decoder, work, &out, in, end)) == NULL || record_ended(work, out) < 0)
            return NULL;
    }
    return out;
}

/* ---- Python ------------------------------------------------------------------------------------------------------ */

static void raise_outcome(const Work *work, Py_ssize_t number)
{
    switch (work->outcome) {
    case TOO_LARGE:
        PyErr_SetString(PyExc_OverflowError, "a record is larger than 1 GiB");
        break;
    case NO_MEMORY:
        PyErr_NoMemory();
        break;
    default:
        PyErr_Format(PyExc_ValueError, "message %zd is no row of these columns (at column %zd)", number,
                     (Py_ssize_t)work->column);
    }
}

/* All messages, without the GIL; NULL when `work->outcome` says why not, of message `done`. */
static char *decode_all(const Decoder *decoder, Work *work, const Py_buffer *messages, Py_ssize_t count,
                        Py_ssize_t *done)
{
    size_t size = PIECE;
    for (Py_ssize_t i = 0; i < count; i++)
        size += (size_t)messages[i].len + decoder->record_bytes;
    char *out = buffer_grow(work, &work->lines, NULL, size);
    if (buffer_grow(work, &work->ends, NULL, sizeof(uint64_t) * (size_t)count) == NULL)
        return NULL;
    for (*done = 0; out != NULL && *done < count; ++*done)
        out = message(decoder, work, out, messages[*done].buf, (size_t)messages[*done].len);
    return out;
}

static PyObject *decoded(const Decoder *decoder, const Py_buffer *messages, Py_ssize_t count)
{
    Work work = {.outcome = DONE};
    PyObject *result = NULL;
    Py_ssize_t done = 0;
    char *out;

    Py_BEGIN_ALLOW_THREADS
    out = decode_all(decoder, &work, messages, count, &done);
    Py_END_ALLOW_THREADS

    if (out != NULL)
        result = Py_BuildValue("y#y#", work.lines.start, (Py_ssize_t)(out - work.lines.start), work.ends.start,
                               (Py_ssize_t)(sizeof(uint64_t) * work.records));
    else
        raise_outcome(&work, done);
    PyMem_RawFree(work.lines.start);
    PyMem_RawFree(work.ends.start);
    return result;
}

static PyObject *decoder_decode(PyObject *self, PyObject *messages)
{
    if (!PyList_Check(messages)) {
        PyErr_SetString(PyExc_TypeError, "messages must be a list");
        return NULL;
    }
    Py_ssize_t count = PyList_Size(messages), held = 0;
    Py_buffer *buffers = PyMem_Malloc(sizeof(Py_buffer) * (size_t)(count + 1));
    if (buffers == NULL)
        return PyErr_NoMemory();
    for (; held < count; held++) {
        PyObject *item = PyList_GetItem(messages, held);
        if (item == NULL)
            break;
        Py_INCREF(item);
        int failed = PyObject_GetBuffer(item, &buffers[held], PyBUF_SIMPLE);
        Py_DECREF(item);
        if (failed)
            break;
    }
    PyObject *result = held == count ? decoded((Decoder *)self, buffers, count) : NULL;
    while (held-- > 0)
        PyBuffer_Release(&buffers[held]);
    PyMem_Free(buffers);
    return result;
}

static void decoder_dealloc(PyObject *self)
{
    Decoder *decoder = (Decoder *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(decoder->kinds);
    PyMem_Free(decoder->prefixes);
    PyMem_Free(decoder->texts);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static size_t padded(size_t size) { return (size + 15) / 16 * 16; }

/* Copies what Decoder() was given; -1 with an exception set. */
static int fill(Decoder *decoder, PyObject *prefixes, const char *kinds)
{
    size_t columns = decoder->columns, total = 0;
    char *text;
    Py_ssize_t size;

    for (size_t i = 0; i < columns; i++) {
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(prefixes, (Py_ssize_t)i), &text, &size) < 0)
            return -1;
        if (growth(kinds[i]) < 0) {
            PyErr_Format(PyExc_ValueError, "there is no kind %d", kinds[i]);
            return -1;
        }
        total += padded((size_t)size);
    }
    decoder->kinds = PyMem_Malloc(columns + 1);
    decoder->prefixes = PyMem_Calloc(columns + 1, sizeof(Prefix));
    decoder->texts = PyMem_Calloc(total + 1, 1);
    if (decoder->kinds == NULL || decoder->prefixes == NULL || decoder->texts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(decoder->kinds, kinds, columns);
    decoder->record_bytes = 4;
    text = decoder->texts;
    for (size_t i = 0; i < columns; i++) {
        PyObject *prefix = PyTuple_GetItem(prefixes, (Py_ssize_t)i);
        Prefix *kept = &decoder->prefixes[i];
        kept->size = (size_t)PyBytes_Size(prefix);
        kept->text = text;
        memcpy(text, PyBytes_AsString(prefix), kept->size);
        text += padded(kept->size);
        decoder->record_bytes += kept->size + (size_t)growth(kinds[i]);
    }
    return 0;
}

static PyObject *decoder_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"prefixes", "kinds", NULL};
    PyObject *prefixes;
    const char *kinds;
    Py_ssize_t columns;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!y#:Decoder", names, &PyTuple_Type, &prefixes, &kinds, &columns))
        return NULL;
    if (columns != PyTuple_Size(prefixes) || columns > MAX_COLUMNS) {
        PyErr_Format(PyExc_ValueError, "%zd prefixes for %zd kinds, of at most %d", PyTuple_Size(prefixes), columns,
                     MAX_COLUMNS);
        return NULL;
    }
    PyObject *self = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    ((Decoder *)self)->columns = (size_t)columns;
    if (fill((Decoder *)self, prefixes, kinds) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static PyMethodDef decoder_methods[] = {
    {"decode", decoder_decode, METH_O, "The records of these messages, and 8 bytes for where each of them ends."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot decoder_slots[] = {
    {Py_tp_new, decoder_new},
    {Py_tp_dealloc, decoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_doc, "Turns messages of a binary COPY into JSON Lines."},
    {0, NULL},
};

static PyType_Spec decoder_spec = {
    .name = "services.exporter.pipeline._rows.Decoder",
    .basicsize = sizeof(Decoder),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = decoder_slots,
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&decoder_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Decoder", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "services.exporter.pipeline._rows",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&module); }
