/* The loops that a request runs through, where a hundred calls of numpy would each cost more than
 * what they do. `_loops.pyi` says what goes in and comes out; nothing here keeps anything.
 *
 * Shape suffixes as in history.py and catalogue.py: U users, N video events, C single comment
 * events, M comment events (groups), K comments of a group, B rows of a batch, I and J slots of the
 * video and comment side, H hashes, V catalogue rows, D width, E excluded rows, F features, T bytes
 * of text.
 */

#include "_calls.h"
#include "_inner_product.h"

#include <float.h>
#include <stdlib.h>

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address)
#endif

enum { START = -1, GROUP_GAP_MS = 30 * 60 * 1000 }; /* as in history.py */

static int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

/* Whether each of some owners has its own part of the items, one after another. */
static int are_parts(const int64_t *start_O1, int64_t owners, int64_t items)
{
    if (owners < 0 || start_O1[0] || start_O1[owners] != items)
        return 0;
    for (int64_t o = 0; o < owners; o++)
        if (start_O1[o] > start_O1[o + 1])
            return 0;
    return 1;
}

/* How many items the owner has who has most of them; at least 1, as room for them is taken. */
static int64_t most_of(const int64_t *start_O1, int64_t owners)
{
    int64_t most = 1;
    for (int64_t o = 0; o < owners; o++)
        most = start_O1[o + 1] - start_O1[o] > most ? start_O1[o + 1] - start_O1[o] : most;
    return most;
}

/* Places of a table for so many keys: a power of two, and half of them or more stay empty. */
static uint64_t places_for(int64_t keys)
{
    uint64_t places = 4;
    while (places < 2 * (uint64_t)keys)
        places *= 2;
    return places;
}

/* Where in it to begin to look for a key. */
static uint64_t first_place(int64_t key, uint64_t places)
{
    return ((uint64_t)key * 0x9e3779b97f4a7c15u >> 32) & (places - 1);
}

/* Whether some rows are those of a table; they are read from memory beforehand. */
static int are_rows(const void *table, int64_t rows, int64_t row_bytes, const int64_t *row_N,
                    int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (row_N[i] < 0 || row_N[i] >= rows)
            return 0;
        for (int64_t at = 0; at < row_bytes; at += 64)
            FETCH((const char *)table + row_N[i] * row_bytes + at);
    }
    return 1;
}

/* ---- catalogue.IdIndex ------------------------------------------------------------------- */

enum { AT_ONCE = 32 };

/* Where each search begins is read for some hashes beforehand: they wait for memory together. */
static int find_rows(const uint64_t *hash_H, int64_t count, const uint64_t *sorted_hash_N,
                     const int32_t *row_N, int64_t hashes, const int64_t *start_T, int64_t starts,
                     int64_t shift, int32_t *found_H)
{
    if (shift < 1 || shift > 63 || starts != (int64_t)1 << (64 - shift))
        return OUT_OF_RANGE;
    int64_t position[AT_ONCE];
    for (int64_t from = 0; from < count; from += AT_ONCE) {
        int64_t some = smaller(AT_ONCE, count - from);
        for (int64_t i = 0; i < some; i++)
            FETCH(&start_T[hash_H[from + i] >> shift]);
        for (int64_t i = 0; i < some; i++) {
            position[i] = start_T[hash_H[from + i] >> shift];
            FETCH(&sorted_hash_N[position[i]]);
            FETCH(&sorted_hash_N[position[i] + 8]);
        }
        for (int64_t i = 0; i < some; i++) {
            uint64_t sought = hash_H[from + i];
            int64_t next = (int64_t)(sought >> shift) + 1;
            int64_t low = position[i], high = next < starts ? start_T[next] : hashes;
            if (low < 0 || high > hashes)
                return OUT_OF_RANGE;
            while (low < high) { /* the first that isn't below the one sought */
                int64_t middle = low + (high - low) / 2;
                if (sorted_hash_N[middle] < sought)
                    low = middle + 1;
                else
                    high = middle;
            }
            position[i] = low < hashes && sorted_hash_N[low] == sought ? low : -1;
            if (position[i] >= 0)
                FETCH(&row_N[low]);
        }
        for (int64_t i = 0; i < some; i++)
            found_H[from + i] = position[i] < 0 ? 0 : row_N[position[i]];
    }
    return DONE;
}

/* Closes up the events whose row isn't 0. */
static int keep_known(int32_t *row_N, int64_t *ms_N, int64_t count, const int64_t *start_U1,
                      int64_t users, int64_t *known_start_U1)
{
    if (!are_parts(start_U1, users, count))
        return OUT_OF_RANGE;
    int64_t kept = 0;
    for (int64_t u = 0; u < users; u++) {
        known_start_U1[u] = kept;
        for (int64_t i = start_U1[u]; i < start_U1[u + 1]; i++)
            if (row_N[i]) {
                row_N[kept] = row_N[i];
                ms_N[kept++] = ms_N[i];
            }
    }
    known_start_U1[users] = kept;
    return DONE;
}

/* ---- catalogue.TextColumn ---------------------------------------------------------------- */

/* A list of the texts of some rows; NULL with an exception, or where something is out of range. */
static PyObject *read_texts(const char *blob_T, int64_t bytes, const int64_t *offset_N1,
                            int64_t texts, const int64_t *row_H, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (row_H[i] < 0 || row_H[i] >= texts)
            return NULL;
        FETCH(&offset_N1[row_H[i]]);
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t start = offset_N1[row_H[i]], end = offset_N1[row_H[i] + 1];
        if (start < 0 || end < start || end > bytes)
            return NULL;
        FETCH(&blob_T[start]);
    }
    PyObject *read = PyList_New(count);
    for (int64_t i = 0; i < count && read; i++) {
        int64_t start = offset_N1[row_H[i]], end = offset_N1[row_H[i] + 1];
        PyObject *text = PyUnicode_DecodeUTF8(blob_T + start, end - start, NULL);
        if (!text || PyList_SetItem(read, i, text))
            Py_CLEAR(read);
    }
    return read;
}

/* ---- history.Timelines ------------------------------------------------------------------- */

/* What is put in order: by the three numbers in turn, equal ones as they stand. */
typedef struct {
    int64_t first, second, third, place;
} Key;

static int is_after(const Key *one, const Key *other)
{
    if (one->first != other->first)
        return one->first > other->first;
    if (one->second != other->second)
        return one->second > other->second;
    return one->third > other->third;
}

enum { RUN = 8 };

/* A merge sort that passes over what is in order already, as stored histories mostly are. */
static void sort_keys(Key *key, Key *spare, int64_t count)
{
    for (int64_t start = 0; start < count; start += RUN)
        for (int64_t i = start + 1; i < smaller(start + RUN, count); i++) {
            Key moved = key[i];
            int64_t j = i - 1;
            for (; j >= start && is_after(&key[j], &moved); j--)
                key[j + 1] = key[j];
            key[j + 1] = moved;
        }
    for (int64_t width = RUN; width < count; width *= 2)
        for (int64_t start = 0; start + width < count; start += 2 * width) {
            int64_t middle = start + width, end = smaller(middle + width, count);
            if (!is_after(&key[middle - 1], &key[middle]))
                continue;
            memcpy(spare + start, key + start, (size_t)width * sizeof(Key));
            int64_t left = start, right = middle, to = start;
            while (left < middle && right < end)
                key[to++] = is_after(&spare[left], &key[right]) ? key[right++] : spare[left++];
            memcpy(key + to, spare + left, (size_t)(middle - left) * sizeof(Key));
        }
}

/* Single comment events of one user under one video that are at most a gap apart. */
typedef struct {
    int64_t video, first_ms, last_ms, newest; /* the last of them in order */
    int32_t first, last, cut;                 /* orders */
} Group;

typedef struct {
    Key *comment, *instant, *spare;
    Group *group;
    int64_t *earlier; /* of each single event in order, the one before in its group, or -1 */
    int64_t *latest;  /* by video: which group is its latest, or -1 */
    uint64_t places;
} Workplace;

typedef struct {
    int32_t *row, *order, *cut;
    int64_t *ms;
    int64_t count;
} Videos;

typedef struct {
    int32_t *video, *row_K, *first, *last, *cut, *earliest;
    int64_t *ms;
    int64_t count, keep;
} Comments;

/* Events as they came in; `event` are those of the user whose turn it is. */
typedef struct {
    const int64_t *user;
    const int32_t *row, *video;
    const int64_t *ms, *event;
    int64_t count;
} Given;

/* By time, then row; a video that follows itself is left out. */
static void order_videos(Given given, Workplace at, Videos *videos)
{
    for (int64_t i = 0; i < given.count; i++) {
        int64_t event = given.event[i];
        at.instant[i] = (Key){given.ms[event], given.row[event], 0, event};
    }
    sort_keys(at.instant, at.spare, given.count);
    int64_t start = videos->count;
    for (int64_t i = 0; i < given.count; i++) {
        int32_t row = (int32_t)at.instant[i].second;
        if (videos->count > start && videos->row[videos->count - 1] == row)
            continue;
        videos->row[videos->count] = row;
        videos->ms[videos->count++] = at.instant[i].first;
    }
}

/* Where a video's latest group is told. */
static int64_t *latest_of(Workplace at, int64_t video)
{
    uint64_t place = first_place(video, at.places);
    while (at.latest[place] >= 0 && at.group[at.latest[place]].video != video)
        place = (place + 1) & (at.places - 1);
    return &at.latest[place];
}

/* Sorts into `at.comment` by time and row, as stored histories mostly are already; fills `at.group`
 * in the order of first instants; how many groups there are. */
static int64_t group_comments(Given given, Workplace at)
{
    for (int64_t i = 0; i < given.count; i++) {
        int64_t event = given.event[i];
        at.comment[i] = (Key){given.ms[event], given.row[event], given.video[event], event};
    }
    sort_keys(at.comment, at.spare, given.count);
    memset(at.latest, -1, at.places * sizeof *at.latest);
    int64_t groups = 0;
    for (int64_t i = 0; i < given.count; i++) {
        int64_t ms = at.comment[i].first, video = at.comment[i].third, *latest = latest_of(at, video);
        if (*latest < 0 || ms - at.group[*latest].last_ms > GROUP_GAP_MS) {
            *latest = groups;
            at.group[groups++] = (Group){.video = video, .first_ms = ms, .newest = -1};
        }
        Group *group = &at.group[*latest];
        at.earlier[i] = group->newest;
        group->newest = i;
        group->last_ms = ms;
    }
    return groups;
}

/* Moves groups' ends behind the first video event on their video that follows within the gap. */
static void delay_behind_likes(Group *group, int64_t groups, const int32_t *row, const int64_t *ms,
                               int64_t count)
{
    int64_t from = 0;
    for (Group *end = group + groups; group < end; group++) {
        while (from < count && ms[from] < group->first_ms)
            from++;
        for (int64_t v = from; v < count && ms[v] - group->last_ms <= GROUP_GAP_MS; v++)
            if (ms[v] >= group->last_ms && row[v] == group->video) {
                group->last_ms = ms[v];
                break;
            }
    }
}

/* The group's newest comments, each once at its latest event, newest first. */
static void keep_newest(const Group *group, Workplace at, int32_t *row_K, int64_t keep)
{
    int64_t kept = 0;
    for (int64_t i = group->newest; i >= 0 && kept < keep; i = at.earlier[i]) {
        int32_t row = (int32_t)at.comment[i].second;
        int64_t same = 0;
        while (same < kept && row_K[same] != row)
            same++;
        if (same == kept)
            row_K[kept++] = row;
    }
}

/* At one instant a comment event's start precedes video events and its end follows them: then
 * neither the comment reveals the video event nor the video event the comment. */
enum { GROUP_BEGINS, VIDEO, GROUP_ENDS };

/* Numbers one user's instants by (time, kind, video) and writes groups by their ends. */
static void order_instants(Workplace at, int64_t groups, Videos *videos, int64_t video_start,
                           Comments *comments)
{
    int64_t count = 0;
    for (int64_t g = 0; g < groups; g++) {
        const Group *group = &at.group[g];
        at.instant[count++] = (Key){group->first_ms, GROUP_BEGINS, group->video, g};
    }
    for (int64_t v = video_start; v < videos->count; v++)
        at.instant[count++] = (Key){videos->ms[v], VIDEO, videos->row[v], v};
    for (int64_t g = 0; g < groups; g++) {
        const Group *group = &at.group[g];
        at.instant[count++] = (Key){group->last_ms, GROUP_ENDS, group->video, g};
    }
    sort_keys(at.instant, at.spare, count);

    int32_t next_video = NEVER, next_group = NEVER;
    for (int64_t i = count - 1; i >= 0; i--) {
        int64_t place = at.instant[i].place;
        int32_t order = (int32_t)i;
        switch (at.instant[i].second) {
        case GROUP_BEGINS:
            at.group[place].first = next_group = order;
            break;
        case VIDEO:
            videos->order[place] = order;
            videos->cut[place] = next_video;
            next_video = order;
            break;
        default:
            at.group[place].last = order;
            at.group[place].cut = next_group;
        }
    }
    int64_t start = comments->count;
    for (int64_t i = 0; i < count; i++) {
        if (at.instant[i].second != GROUP_ENDS)
            continue;
        const Group *group = &at.group[at.instant[i].place];
        int64_t to = comments->count++;
        comments->video[to] = (int32_t)group->video;
        comments->first[to] = group->first;
        comments->last[to] = group->last;
        comments->cut[to] = group->cut;
        comments->ms[to] = group->first_ms;
        keep_newest(group, at, comments->row_K + to * comments->keep, comments->keep);
    }
    int32_t earliest = NEVER;
    for (int64_t to = comments->count - 1; to >= start; to--) {
        earliest = comments->first[to] < earliest ? comments->first[to] : earliest;
        comments->earliest[to] = earliest;
    }
}

/* Where each user's events begin, and the events by user, in the order given. */
static int gather_by_user(Given given, int64_t users, int64_t *start_U1, int64_t *event)
{
    const int64_t *user = given.user, count = given.count;
    memset(start_U1, 0, (size_t)(users + 1) * sizeof *start_U1);
    for (int64_t i = 0; i < count; i++) {
        if (user[i] < 0 || user[i] >= users)
            return OUT_OF_RANGE;
        start_U1[user[i] + 1]++;
    }
    for (int64_t u = 0; u < users; u++)
        start_U1[u + 1] += start_U1[u];
    for (int64_t i = 0; i < count; i++)
        event[start_U1[user[i]]++] = i;
    for (int64_t u = users; u > 0; u--)
        start_U1[u] = start_U1[u - 1];
    start_U1[0] = 0;
    return DONE;
}

/* Puts all users' events in order. Starts say where each user's are in `given.event`, and then in
 * the outputs, which have room for as many as are given; `comments.row_K` is all zeros. */
static int order_users(int64_t users, Given video, Given comment, Videos *videos,
                       int64_t *video_start_U1, Comments *comments, int64_t *comment_start_U1)
{
    int64_t most_comments = most_of(comment_start_U1, users);
    int64_t most = most_of(video_start_U1, users) + 2 * most_comments; /* instants */
    uint64_t places = places_for(most_comments);
    Workplace at = {
        malloc((size_t)most_comments * sizeof(Key)),
        malloc((size_t)most * sizeof(Key)),
        malloc((size_t)most * sizeof(Key)),
        malloc((size_t)most_comments * sizeof(Group)),
        malloc((size_t)most_comments * sizeof(int64_t)),
        malloc(places * sizeof(int64_t)),
        places,
    };
    int is_there = at.comment && at.instant && at.spare && at.group && at.earlier && at.latest;
    int status = is_there ? DONE : OUT_OF_MEMORY;

    const int64_t *video_event = video.event, *comment_event = comment.event;
    int64_t video_from = 0, comment_from = 0;
    for (int64_t u = 0; u < users && !status; u++) {
        int64_t video_to = video_start_U1[u + 1], comment_to = comment_start_U1[u + 1];
        int64_t start = video_start_U1[u] = videos->count;
        comment_start_U1[u] = comments->count;
        video.event = video_event + video_from, video.count = video_to - video_from;
        order_videos(video, at, videos);
        comment.event = comment_event + comment_from, comment.count = comment_to - comment_from;
        int64_t groups = group_comments(comment, at);
        delay_behind_likes(at.group, groups, videos->row + start, videos->ms + start,
                           videos->count - start);
        order_instants(at, groups, videos, start, comments);
        video_from = video_to;
        comment_from = comment_to;
    }
    video_start_U1[users] = videos->count;
    comment_start_U1[users] = comments->count;
    free(at.comment);
    free(at.instant);
    free(at.spare);
    free(at.group);
    free(at.earlier);
    free(at.latest);
    return status;
}

/* `Timelines.build`. The last of both starts say how much of the outputs is filled. */
static int build_timelines(int64_t users, Given video, Given comment, Videos videos,
                           int64_t *video_start_U1, Comments comments, int64_t *comment_start_U1)
{
    int64_t *event = malloc((size_t)(video.count + comment.count + 1) * sizeof *event);
    if (!event)
        return OUT_OF_MEMORY;
    int64_t *comment_event = event + video.count;
    video.event = event, comment.event = comment_event;
    int status = gather_by_user(video, users, video_start_U1, event);
    if (!status)
        status = gather_by_user(comment, users, comment_start_U1, comment_event);
    if (!status)
        status = order_users(users, video, comment, &videos, video_start_U1, &comments,
                             comment_start_U1);
    free(event);
    return status;
}

/* ---- history.HistoryBatch ---------------------------------------------------------------- */

/* One side of one row: `first` into slot 0, then some events, then padding. */
static void fill_slots(int32_t *slot, int64_t slots, const int32_t *value, int64_t count,
                       int32_t first, int32_t padding)
{
    slot[0] = first;
    memcpy(slot + 1, value, (size_t)count * sizeof *slot);
    for (int64_t i = count + 1; i < slots; i++)
        slot[i] = padding;
}

/* Slices of one side: of row b from `from_B[b]` to `to_B[b]`, within the user's events. */
typedef struct {
    const int64_t *from_B, *to_B, *start_U1;
    int64_t slots;
} Slices;

/* Whether a row's slice is the user's and fits; how long it is, and whether the user has more. */
static int is_slice(Slices side, int64_t row, int64_t user, int64_t events, int64_t *count, int *more)
{
    int64_t from = side.from_B[row], end = side.start_U1[user + 1];
    *count = side.to_B[row] - from;
    *more = from < end;
    return *count >= 0 && *count < side.slots && from >= side.start_U1[user] &&
           from + *count <= end && side.start_U1[user] >= 0 && end <= events;
}

/* `Timelines.windows`: three blocks of (rows, slots) for either side, and the comments' rows. */
static int fill_windows(int64_t rows, const int64_t *user_B, int64_t users, Slices video,
                        Slices comment, Videos videos, Comments comments, int32_t *video_3BI,
                        int32_t *comment_3BJ, int32_t *comment_BJK)
{
    int64_t video_block = rows * video.slots, comment_block = rows * comment.slots;
    int64_t keep = comments.keep, count;
    int more;
    for (int64_t row = 0; row < rows; row++) {
        int64_t user = user_B[row], from = video.from_B[row];
        if (user < 0 || user >= users || !is_slice(video, row, user, videos.count, &count, &more))
            return OUT_OF_RANGE;
        int32_t *to = video_3BI + row * video.slots;
        int32_t cut = more ? videos.order[from] : NEVER;
        fill_slots(to, video.slots, videos.row + from, count, 0, 0);
        fill_slots(to + video_block, video.slots, videos.order + from, count, START, NEVER);
        fill_slots(to + 2 * video_block, video.slots, videos.cut + from, count, cut, 0);

        from = comment.from_B[row];
        if (!is_slice(comment, row, user, comments.count, &count, &more))
            return OUT_OF_RANGE;
        to = comment_3BJ + row * comment.slots;
        cut = more ? comments.earliest[from] : NEVER;
        fill_slots(to, comment.slots, comments.video + from, count, 0, 0);
        fill_slots(to + comment_block, comment.slots, comments.last + from, count, START, NEVER);
        fill_slots(to + 2 * comment_block, comment.slots, comments.cut + from, count, cut, 0);
        to = comment_BJK + row * comment.slots * keep;
        memset(to, 0, (size_t)(comment.slots * keep) * sizeof *to);
        memcpy(to + keep, comments.row_K + from * keep, (size_t)(count * keep) * sizeof *to);
    }
    return DONE;
}

/* ---- history.LatestHistories ------------------------------------------------------------- */

enum { FIELDS = 6 }; /* beside a comment event's comments, as in `HistoryBatch.packed` */

/* The newest events of one side. */
typedef struct {
    int64_t from, count;
} Newest;

static Newest newest_of(const int64_t *start_U1, int64_t user, int64_t most)
{
    int64_t end = start_U1[user + 1], count = smaller(end - start_U1[user], most);
    return (Newest){end - count, count};
}

/* Both sides of one user, slot by slot; how many comments are in them. */
static int64_t fill_latest(int32_t *slot, int64_t slots, Newest video, Videos videos, Newest comment,
                           Comments comments)
{
    int64_t keep = comments.keep, used = 0;
    for (int64_t s = 0; s < slots; s++, slot += FIELDS + keep) {
        int64_t v = video.from + s - 1, c = comment.from + s - 1;
        memset(slot, 0, (size_t)(FIELDS + keep) * sizeof *slot);
        slot[1] = slot[4] = s ? NEVER : START;
        if (!s) {
            slot[2] = video.count ? videos.order[video.from] : NEVER;
            slot[5] = comment.count ? comments.earliest[comment.from] : NEVER;
        }
        if (s && s <= video.count) {
            slot[0] = videos.row[v];
            slot[1] = videos.order[v];
            slot[2] = videos.cut[v];
        }
        if (s && s <= comment.count) {
            slot[3] = comments.video[c];
            slot[4] = comments.last[c];
            slot[5] = comments.cut[c];
            memcpy(slot + FIELDS, comments.row_K + c * keep, (size_t)keep * sizeof *slot);
            for (int64_t k = 0; k < keep; k++)
                used += slot[FIELDS + k] > 0;
        }
    }
    return used;
}

/* What is put in order on the way: everything but the comments of comment events. */
typedef struct {
    int64_t *event, *video_start_U1, *ms;
    int32_t *videos_3N, *comments_5M;
} Scratch;

/* `latest_histories` with all memory at hand. */
static int fill_all_latest(int64_t users, int64_t most, Given video, Given comment, Scratch scratch,
                           int32_t *content, int64_t room, int64_t *slots_2, int64_t *used_U2,
                           Comments comments, int64_t *comment_start_U1)
{
    int64_t n = video.count, m = comment.count;
    for (int64_t i = 0; i < n; i++)
        scratch.event[i] = i;
    for (int64_t i = 0; i < m; i++)
        scratch.event[n + i] = i;
    video.event = scratch.event, comment.event = scratch.event + n;
    Videos videos = {scratch.videos_3N, scratch.videos_3N + n, scratch.videos_3N + 2 * n, scratch.ms, 0};
    int32_t *field = scratch.comments_5M;
    comments.video = field, comments.first = field + m, comments.last = field + 2 * m;
    comments.cut = field + 3 * m, comments.earliest = field + 4 * m, comments.ms = scratch.ms + n;
    int64_t *video_start_U1 = scratch.video_start_U1;
    int status =
        order_users(users, video, comment, &videos, video_start_U1, &comments, comment_start_U1);
    if (status)
        return status;

    slots_2[0] = slots_2[1] = 1;
    for (int64_t u = 0; u < users; u++) {
        int64_t own = 1 + newest_of(video_start_U1, u, most).count;
        slots_2[0] = own > slots_2[0] ? own : slots_2[0];
        own = 1 + newest_of(comment_start_U1, u, most).count;
        slots_2[1] = own > slots_2[1] ? own : slots_2[1];
    }
    int64_t slots = slots_2[0] > slots_2[1] ? slots_2[0] : slots_2[1];
    int64_t row = slots * (FIELDS + comments.keep);
    if (users * row > room)
        return OUT_OF_RANGE;
    for (int64_t u = 0; u < users; u++) {
        Newest own = newest_of(video_start_U1, u, most);
        used_U2[2 * u] = own.count;
        used_U2[2 * u + 1] = fill_latest(content + u * row, slots, own, videos,
                                         newest_of(comment_start_U1, u, most), comments);
    }
    return DONE;
}

/* Everything that `Timelines.build`, `Timelines.latest_windows` and `HistoryBatch.packed` make in
 * turn, of events that come user by user. `video_C` is the catalogue's, of all comments. */
static int latest_histories(int64_t users, int64_t most, Given video, const int64_t *video_start_U1,
                            Given comment, const int64_t *single_start_U1, const int32_t *video_C,
                            int64_t catalogue, int32_t *content, int64_t room, int64_t *slots_2,
                            int64_t *used_U2, Comments comments, int64_t *comment_start_U1)
{
    int64_t n = video.count, m = comment.count;
    if (!are_parts(video_start_U1, users, n) || !are_parts(single_start_U1, users, m))
        return OUT_OF_RANGE;
    int64_t *memory = malloc((size_t)(2 * (n + m) + users + 1) * sizeof *memory);
    int32_t *fields = malloc((size_t)(3 * n + 6 * m + 1) * sizeof *fields);
    int status = memory && fields ? DONE : OUT_OF_MEMORY;
    int32_t *video_of = fields + 3 * n + 5 * m;
    for (int64_t i = 0; i < m && !status; i++) {
        int32_t row = comment.row[i];
        if (row < 0 || row >= catalogue)
            status = OUT_OF_RANGE;
        else
            video_of[i] = video_C[row];
    }
    if (!status) {
        Scratch scratch = {memory, memory + 2 * (n + m), memory + n + m, fields, fields + 3 * n};
        memcpy(scratch.video_start_U1, video_start_U1, (size_t)(users + 1) * sizeof *memory);
        memcpy(comment_start_U1, single_start_U1, (size_t)(users + 1) * sizeof *memory);
        comment.video = video_of;
        status = fill_all_latest(users, most, video, comment, scratch, content, room, slots_2,
                                 used_U2, comments, comment_start_U1);
    }
    free(memory);
    free(fields);
    return status;
}

/* ---- scoring and batch_ranking ----------------------------------------------------------- */

static int score_rows(const float *candidate_VD, int64_t rows, int64_t width, const int64_t *row_N,
                      int64_t count, const float *preference_BD, const int64_t *start_B1,
                      int64_t queries, float *cosine_N)
{
    if (!are_parts(start_B1, queries, count)
        || !are_rows(candidate_VD, rows, width * (int64_t)sizeof *candidate_VD, row_N, count))
        return OUT_OF_RANGE;
    for (int64_t b = 0; b < queries; b++)
        for (int64_t i = start_B1[b]; i < start_B1[b + 1]; i++)
            cosine_N[i] = inner_product(candidate_VD + row_N[i] * width, preference_BD + b * width, width);
    return DONE;
}

/* Rows by hash, twice as many places as rows or more; -1 where there is none. */
typedef struct {
    int64_t *row;
    uint64_t places;
} RowSet;

static uint64_t place_of(RowSet set, int64_t row)
{
    uint64_t place = first_place(row, set.places);
    while (set.row[place] >= 0 && set.row[place] != row)
        place = (place + 1) & (set.places - 1);
    return place;
}

/* Keeps the largest values that come, the smallest of them first. */
static void keep_largest(double *heap, int64_t *size, int64_t most, double value)
{
    int64_t at;
    if (*size < most) {
        for (at = (*size)++; at && heap[(at - 1) / 2] > value; at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
    } else {
        if (!most || !(value > heap[0]))
            return;
        int64_t child;
        for (at = 0; (child = 2 * at + 1) < most; at = child) {
            if (child + 1 < most && heap[child + 1] < heap[child])
                child++;
            if (heap[child] >= value)
                break;
            heap[at] = heap[child];
        }
    }
    heap[at] = value;
}

static int choose_best(const int64_t *start_B1, int64_t queries, const int64_t *row_N,
                       const float *score_N, int64_t items, const int64_t *excluded_start_B1,
                       const int32_t *excluded_E, int64_t excluded, const int64_t *count_B,
                       const float *slack_B, int64_t *place_N, int64_t *kept_start_B1)
{
    if (!are_parts(start_B1, queries, items) || !are_parts(excluded_start_B1, queries, excluded))
        return OUT_OF_RANGE;
    int64_t most = most_of(start_B1, queries);
    uint64_t places = places_for(most_of(excluded_start_B1, queries));
    RowSet set = {malloc(places * sizeof(int64_t)), places};
    double *heap = malloc((size_t)most * sizeof *heap);
    int64_t kept = 0;
    for (int64_t b = 0; b < queries && set.row && heap; b++) {
        memset(set.row, -1, places * sizeof(int64_t));
        for (int64_t i = excluded_start_B1[b]; i < excluded_start_B1[b + 1]; i++)
            set.row[place_of(set, excluded_E[i])] = excluded_E[i];
        kept_start_B1[b] = kept;
        int64_t first = kept, size = 0;
        for (int64_t i = start_B1[b]; i < start_B1[b + 1]; i++)
            if (set.row[place_of(set, row_N[i])] != row_N[i]) {
                place_N[kept++] = i;
                keep_largest(heap, &size, smaller(count_B[b] > 0 ? count_B[b] : 0, most), score_N[i]);
            }
        float floor = size && size == count_B[b] ? (float)heap[0] - slack_B[b] : -FLT_MAX;
        int64_t allowed = kept;
        kept = first;
        for (int64_t i = first; i < allowed; i++)
            if (score_N[place_N[i]] >= floor)
                place_N[kept++] = place_N[i];
    }
    int status = set.row && heap ? DONE : OUT_OF_MEMORY;
    kept_start_B1[queries] = kept;
    free(set.row);
    free(heap);
    return status;
}

/* A number for each score, a larger one for a lower score; the same for both zeros. */
static int64_t as_descending(double score)
{
    int64_t bits;
    score += 0.0; /* not -0.0 */
    if (score != score)
        return INT64_MAX;
    memcpy(&bits, &score, sizeof bits);
    return bits < 0 ? bits ^ INT64_MIN : ~bits;
}

/* What `rank_pairs` fills, best first, query by query; it begins with what each query's rows score. */
typedef struct {
    int64_t *row, *start_B1;
    float *encoder, *beside_PN;
    double *score;
} RankedPairs;

/* Where one query's are, from `start` to `end`: puts its `count` best at `to`; how many they are.
 * Reads only what is from `start` on, and `to` is never behind it. */
static int64_t order_best(RankedPairs ranked, int64_t items, int64_t parts, const int64_t *row_N,
                          const float *beside_PN, int64_t start, int64_t end, int64_t count,
                          int64_t to, Key *key, double *heap, float *encoder)
{
    if (!count)
        return 0;
    int64_t size = 0, kept = 0;
    for (int64_t i = start; i < end; i++)
        keep_largest(heap, &size, smaller(count, end - start), ranked.score[i]);
    for (int64_t i = start; i < end; i++)
        if (size < count || !(ranked.score[i] < heap[0]))
            key[kept++] = (Key){as_descending(ranked.score[i]), row_N[i], 0, i};
    sort_keys(key, key + (end - start), kept);
    kept = smaller(kept, count);
    for (int64_t k = 0; k < kept; k++) {
        int64_t i = key[k].place;
        heap[k] = ranked.score[i];
        encoder[k] = ranked.encoder[i];
        for (int64_t p = 0; p < parts; p++)
            ranked.beside_PN[p * items + to + k] = beside_PN[p * items + i];
        ranked.row[to + k] = row_N[i];
    }
    memcpy(ranked.score + to, heap, (size_t)kept * sizeof *heap);
    memcpy(ranked.encoder + to, encoder, (size_t)kept * sizeof *encoder);
    return kept;
}

static int rank_pairs(const float *candidate_VD, int64_t rows, int64_t width, const int64_t *row_N,
                      int64_t items, const float *preference_BD, const int64_t *start_B1,
                      int64_t queries, float temperature, const float *beside_PN, int64_t parts,
                      const int64_t *count_B, RankedPairs ranked)
{
    int status = score_rows(candidate_VD, rows, width, row_N, items, preference_BD, start_B1, queries,
                            ranked.encoder);
    if (status)
        return status;
    for (int64_t i = 0; i < items; i++) {
        ranked.encoder[i] /= temperature;
        ranked.score[i] = ranked.encoder[i];
        for (int64_t p = 0; p < parts; p++)
            ranked.score[i] += beside_PN[p * items + i];
    }
    int64_t most = most_of(start_B1, queries);
    Key *key = malloc(2 * (size_t)most * sizeof *key);
    double *heap = malloc((size_t)most * sizeof *heap);
    float *encoder = malloc((size_t)most * sizeof *encoder);
    status = key && heap && encoder ? DONE : OUT_OF_MEMORY;
    int64_t to = 0;
    for (int64_t b = 0; b < queries && !status; b++) {
        ranked.start_B1[b] = to;
        to += order_best(ranked, items, parts, row_N, beside_PN, start_B1[b], start_B1[b + 1],
                         count_B[b] > 0 ? count_B[b] : 0, to, key, heap, encoder);
    }
    ranked.start_B1[queries] = to;
    free(key);
    free(heap);
    free(encoder);
    return status;
}

/* ---- profile_similarity ------------------------------------------------------------------ */

/* Half precision as single: the exponent's bias differs by 112, and all of its bits stand for what
 * isn't finite. */
static void from_halves(const uint16_t *half, int64_t count, float *single)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)(half[i] & 0x7fff) << 13;
        float value;
        memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
        memcpy(&bits, &value, sizeof bits);
        bits |= (uint32_t)(half[i] & 0x8000) << 16 | ((half[i] & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
        memcpy(&single[i], &bits, sizeof bits);
    }
}

static int read_halves(const uint16_t *table_VF, int64_t rows, int64_t width, const int64_t *row_N,
                       int64_t count, float *feature_NF)
{
    if (!are_rows(table_VF, rows, width * (int64_t)sizeof *table_VF, row_N, count))
        return OUT_OF_RANGE;
    for (int64_t i = 0; i < count; i++)
        from_halves(table_VF + row_N[i] * width, width, feature_NF + i * width);
    return DONE;
}

/* ---- for Python -------------------------------------------------------------------------- */

static PyObject *call_find_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "qH qN iN qT ns IH", arguments, count))
        return NULL;
    return finish(&c, find_rows(c.data[0], c.extent['H'], c.data[1], c.data[2], c.extent['N'],
                                c.data[3], c.extent['T'], c.extent['s'], c.data[5]));
}

static PyObject *call_read_texts(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "bT qN qH", arguments, count)) /* N: texts and one more */
        return NULL;
    PyObject *read = read_texts(c.data[0], c.extent['T'], c.data[1], c.extent['N'] - 1, c.data[2],
                                c.extent['H']);
    if (!read && !PyErr_Occurred())
        return finish(&c, OUT_OF_RANGE);
    let_go(&c);
    return read;
}

static PyObject *call_find_known(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "qH QH qU qN iN qT ns IH QU", arguments, count)) /* U: users and one more */
        return NULL;
    int64_t events = c.extent['H'];
    int status = find_rows(c.data[0], events, c.data[3], c.data[4], c.extent['N'], c.data[5],
                           c.extent['T'], c.extent['s'], c.data[7]);
    if (!status)
        status = keep_known(c.data[7], c.data[1], events, c.data[2], c.extent['U'] - 1, c.data[8]);
    return finish(&c, status);
}

static PyObject *call_build_timelines(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nK qN iN qN qC iC iC qC I3N QN QU I5C ICK QC QU", arguments, count))
        return NULL;
    int64_t n = c.extent['N'], m = c.extent['C'];
    int32_t *video_3N = c.data[8], *comment_5C = c.data[11];
    Given video = {c.data[1], c.data[2], NULL, c.data[3], NULL, n};
    Given comment = {c.data[4], c.data[5], c.data[6], c.data[7], NULL, m};
    Videos videos = {video_3N, video_3N + n, video_3N + 2 * n, c.data[9], 0};
    Comments comments = {comment_5C,         c.data[12],         comment_5C + m, comment_5C + 2 * m,
                         comment_5C + 3 * m, comment_5C + 4 * m, c.data[13],     0,
                         c.extent['K']};
    int64_t users = c.extent['U'] - 1;
    if (users < 0)
        return finish(&c, OUT_OF_RANGE);
    return finish(&c, build_timelines(users, video, comment, videos, c.data[10], comments, c.data[14]));
}

static PyObject *call_fill_windows(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nI nJ nK qB qB qB qB qB qU qU iN iN iN iM iMK iM iM iM I3BI I3BJ IBJK", arguments,
             count))
        return NULL;
    void **d = c.data;
    Slices video = {d[4], d[5], d[8], c.extent['I']}, comment = {d[6], d[7], d[9], c.extent['J']};
    Videos videos = {d[10], d[11], d[12], NULL, c.extent['N']};
    Comments comments = {d[13], d[14], NULL, d[15], d[16], d[17], NULL, c.extent['M'], c.extent['K']};
    if (!video.slots || !comment.slots)
        return finish(&c, OUT_OF_RANGE);
    return finish(&c, fill_windows(c.extent['B'], d[3], c.extent['U'] - 1, video, comment, videos,
                                   comments, d[18], d[19], d[20]));
}

static PyObject *call_latest_histories(PyObject *module, PyObject *const *arguments,
                                       Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nB nI nK qU iN qN qU iM qM iC IF Q2 Q2B IMK QU", arguments, count))
        return NULL;
    void **d = c.data;
    int64_t users = c.extent['B'];
    if (c.extent['U'] != users + 1) /* U: users and one more */
        return finish(&c, OUT_OF_RANGE);
    Given video = {NULL, d[4], NULL, d[5], NULL, c.extent['N']};
    Given comment = {NULL, d[7], NULL, d[8], NULL, c.extent['M']};
    Comments comments = {.row_K = d[13], .keep = c.extent['K']};
    return finish(&c, latest_histories(users, c.extent['I'], video, d[3], comment, d[6], d[9],
                                       c.extent['C'], d[10], c.extent['F'], d[11], d[12], comments,
                                       d[14]));
}

static PyObject *call_score_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nV nD iVD qN nB iBD qS IN", arguments, count)) /* S: queries and one more */
        return NULL;
    if (c.extent['S'] != c.extent['B'] + 1)
        return finish(&c, OUT_OF_RANGE);
    return finish(&c, score_rows(c.data[2], c.extent['V'], c.extent['D'], c.data[3], c.extent['N'],
                                 c.data[5], c.data[6], c.extent['B'], c.data[7]));
}

static PyObject *call_choose_best(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "qS qN iN qS iE qB iB QN QS", arguments, count))
        return NULL;
    if (c.extent['S'] != c.extent['B'] + 1)
        return finish(&c, OUT_OF_RANGE);
    return finish(&c, choose_best(c.data[0], c.extent['B'], c.data[1], c.data[2], c.extent['N'],
                                  c.data[3], c.data[4], c.extent['E'], c.data[5], c.data[6],
                                  c.data[7], c.data[8]));
}

static PyObject *call_rank_pairs(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nV nD iVD qN nB iBD qS i1 nP iPN qB QN QS IN IPN QN", arguments, count))
        return NULL;
    if (c.extent['S'] != c.extent['B'] + 1) /* S: queries and one more */
        return finish(&c, OUT_OF_RANGE);
    void **d = c.data;
    RankedPairs ranked = {d[11], d[12], d[13], d[14], d[15]};
    return finish(&c, rank_pairs(d[2], c.extent['V'], c.extent['D'], d[3], c.extent['N'], d[5], d[6],
                                 c.extent['B'], *(float *)d[7], d[9], c.extent['P'], d[10], ranked));
}

static PyObject *call_read_halves(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nV nF hVF qN INF", arguments, count))
        return NULL;
    return finish(&c, read_halves(c.data[2], c.extent['V'], c.extent['F'], c.data[3], c.extent['N'],
                                  c.data[4]));
}

static PyMethodDef functions[] = {FUNCTION(find_rows),       FUNCTION(read_texts),
                                  FUNCTION(find_known),      FUNCTION(build_timelines),
                                  FUNCTION(fill_windows),    FUNCTION(latest_histories),
                                  FUNCTION(score_rows),      FUNCTION(choose_best),
                                  FUNCTION(rank_pairs),      FUNCTION(read_halves),
                                  {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "lsvcr._loops", .m_methods = functions, .m_slots = slots};

PyMODINIT_FUNC PyInit__loops(void) { return PyModuleDef_Init(&definition); }
