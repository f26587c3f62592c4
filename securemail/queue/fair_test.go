package queue_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
)

// putFor accepts n parcels of a tenant to a domain.
func (r *rig) putFor(tenant, domain string, n int, priority int8) {
	r.t.Helper()
	b := r.batch(n)
	b.Tenant = tenant
	for i, p := range b.Parcels {
		p.Actor.Tenant, p.Priority = tenant, priority
		p.Recipient.Address = address(r.t, fmt.Sprintf("a%d@%s", i, domain))
	}
	_, err := r.Put(r.t.Context(), b)
	require.NoError(r.t, err)
}

func lanesOf(ls []*securemail.Lease) map[string]int {
	n := make(map[string]int)
	for _, l := range ls {
		n[l.Parcel.Actor.Tenant+" "+l.Parcel.Recipient.Address.Domain()]++
	}
	return n
}

// One tenant's backlog, however old, takes at most its share of a Take where others wait; so does one domain's.
func TestBacklogKeepsNobodyWaiting(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.putFor("big", "slow.example", 600, 0)
		r.pass(1e9)
		r.putFor("big", "other.example", 3, 0)
		r.putFor("small", "x.example", 2, 0)
		got := lanesOf(r.take(r.Queue, 40))
		require.Equal(t, map[string]int{"big slow.example": 35, "big other.example": 3, "small x.example": 2}, got)
		r.putFor("small", "x.example", 100, 0)
		r.putFor("big", "other.example", 100, 0)
		got = lanesOf(r.take(r.Queue, 80))
		require.Equal(t, map[string]int{"big slow.example": 20, "big other.example": 20, "small x.example": 40}, got)
	})
}

// Priority stands above turns, and single leases go round too.
func TestTurnsOfSingleLeases(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for _, tenant := range []string{"", "a", "b"} {
			r.putFor(tenant, "one.example", 5, 0)
			r.putFor(tenant, "two.example", 5, 0)
		}
		r.putFor("urgent", "x.example", 2, 5)
		require.Equal(t, 2, lanesOf(r.take(r.Queue, 2))["urgent x.example"])
		got := make(map[string]int)
		for range 12 {
			for lane, n := range lanesOf(r.take(r.Queue, 1)) {
				got[lane] += n
			}
		}
		for _, tenant := range []string{"", "a", "b"} {
			require.Equal(t, 2, got[tenant+" one.example"], tenant)
			require.Equal(t, 2, got[tenant+" two.example"], tenant)
		}
	})
}

// Whatever waits: a Take is as full as can be, and within the first 64 lanes nobody who waits gets nothing while another
// gets more than his share.
func TestFairnessProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, lite, nil)
		all, waits := 0, make(map[string]int)
		for i := range rapid.IntRange(1, 4).Draw(rt, "tenants") {
			for j := range rapid.IntRange(1, 4).Draw(rt, "domains") {
				n := rapid.IntRange(1, 30).Draw(rt, "parcels")
				tenant, domain := fmt.Sprint("t", i), fmt.Sprintf("d%d.example", j)
				r.putFor(tenant, domain, n, 0)
				waits[tenant+" "+domain] += n
				all += n
			}
		}
		for all > 0 {
			n := rapid.IntRange(1, 40).Draw(rt, "max")
			got := lanesOf(r.take(r.Queue, n))
			sum := 0
			for _, k := range got {
				sum += k
			}
			require.Equal(rt, min(n, all), sum)
			for lane, k := range waits {
				if n >= 32 && k > 0 { // each of up to 16 lanes has a share of 2 at least
					require.Positive(rt, got[lane], lane)
				}
				waits[lane] -= got[lane]
			}
			all -= sum
		}
	})
}

// A Take costs the same however long the backlog is: each of its statements is a look-up in an index.
func TestTakeReadsNoMoreThanItMust(t *testing.T) {
	r := newRig(t, lite, nil)
	for i := range 20 {
		r.putFor("big", fmt.Sprintf("d%d.example", i%3), 100, 0)
	}
	const waiting = "due>0 AND lease_epoch=0"
	for query, index := range map[string]string{
		"SELECT id FROM queue_parcel WHERE " + waiting + " AND priority=0 AND due<=9 ORDER BY due LIMIT 9":                           "queue_parcel_due (priority=? AND due>? AND due<?)",
		"SELECT id FROM queue_parcel WHERE " + waiting + " AND priority=0 AND tenant='a' AND lane=3 AND due<=9 ORDER BY due LIMIT 9": "queue_parcel_lane (priority=? AND tenant=? AND lane=? AND due>? AND due<?)",
		"SELECT min(lane) FROM queue_parcel WHERE " + waiting + " AND priority=0 AND tenant='a' AND lane>3":                          "queue_parcel_lane (priority=? AND tenant=? AND lane>?)",
		"SELECT min(tenant) FROM queue_parcel WHERE " + waiting + " AND priority=0 AND tenant>'a'":                                   "queue_parcel_lane (priority=? AND tenant>?)",
		"SELECT max(priority) FROM queue_parcel WHERE " + waiting + " AND priority<3":                                                "queue_parcel_",
		"SELECT id FROM queue_parcel WHERE lease_epoch>0 AND priority=0 AND lease_until<=9 ORDER BY lease_until LIMIT 9":             "queue_parcel_lease (priority=? AND lease_until<?)",
		"SELECT 1 FROM queue_parcel p WHERE p.submission='s' AND p.ended=0 AND p.body='b'":                                           "queue_parcel_submission (submission=? AND ended=? AND body=?)",
	} {
		rs, err := r.db.Query("EXPLAIN QUERY PLAN " + query)
		require.NoError(t, err)
		var plan []string
		for rs.Next() {
			var a, b, c int
			var line string
			require.NoError(t, rs.Scan(&a, &b, &c, &line))
			plan = append(plan, line)
		}
		require.NoError(t, rs.Close())
		require.Len(t, plan, 1, query)
		require.Contains(t, plan[0], "INDEX "+index, query)
		require.True(t, strings.HasPrefix(plan[0], "SEARCH"), query)
	}
}
